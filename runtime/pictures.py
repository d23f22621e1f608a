"""Reads and writes photos with Pillow; what surrounds the pixels is kept, dropped or cleaned on purpose."""

from __future__ import annotations

import io
import logging
import os
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, JpegImagePlugin, UnidentifiedImageError

from .errors import ImageError
from .metadata import ExifPolicy, apply_policy, clean_exif, orientation_of

# The output's format follows from its file name.
SUFFIXES = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}

# JPEG includes MPO, a JPEG with more pictures behind it, as phones write them.
_READABLE = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_DIRECT = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr", "HSV")

# What makes a picture of each EXIF orientation upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Where the source's own JPEG settings cannot serve: nearly lossless, colour at full resolution.
_JPEG_QUALITY = 95
_JPEG_FULL_COLOUR = 0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Picture:
    """A photo in memory. Open one with ``read_picture``.

    Attributes:
        path: where it came from.
        pixels: uint8 ``(H, W, 3)`` RGB, upright (the EXIF orientation is applied).
        alpha: uint8 ``(H, W)``, or ``None`` for an opaque picture.
        format: ``JPEG``, ``PNG``, ``WEBP``, ``TIFF``, ``BMP`` or ``GIF``.
        quantization: JPEG's tables by number, each of 64 values; empty for other formats.
        subsampling: JPEG's chroma subsampling, 0 for 4:4:4, 1 for 4:2:2, 2 for 4:2:0; ``None`` if unknown.
        icc_profile: an RGB colour profile, or ``None``.
        exif: EXIF as bytes, never with a thumbnail, a maker's note or an orientation; or ``None``.
    """

    path: Path
    pixels: NDArray[np.uint8]
    format: str
    alpha: NDArray[np.uint8] | None = None
    quantization: dict[int, list[int]] = field(default_factory=dict)
    subsampling: int | None = None
    icc_profile: bytes | None = None
    exif: bytes | None = None


def read_picture(path: Path) -> Picture:
    """Reads a photo.

    Grey, palette and CMYK pictures become RGB; 16-bit grey loses its low byte. An embedded profile of
    another colour model is used for the conversion (CMYK) or dropped (grey).

    Raises:
        ImageError: the file cannot be read, is truncated, of an unknown format, animated, or too large.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            # What matters raises, such as 179 megapixels; the warnings are of metadata and of half of that.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_READABLE) as image:
                return _decode(path, image)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{path} is not a picture of a known format ({', '.join(_READABLE)}); convert it to JPEG or PNG"
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} is too large: {error}") from error
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # Pillow's decoders raise whatever malformed data make them raise
        raise ImageError(f"cannot decode {path}: {error}") from error


def write_picture(
    picture: Picture,
    pixels: NDArray[np.uint8],
    path: Path,
    *,
    exif: ExifPolicy = "private",
    overwrite: bool = False,
    replace_input: bool = False,
) -> None:
    """Writes changed pixels with the rest of a picture, whole or not at all.

    The suffix decides the format. A JPEG from a JPEG keeps its quantisation tables and subsampling; PNG, TIFF
    (uncompressed: Pillow's compressed TIFF cannot hold EXIF) and BMP are lossless. JPEG and BMP hold no
    transparency: it is laid on white.

    Args:
        picture: where colour profile, transparency, EXIF and JPEG settings come from.
        pixels: uint8 ``(H, W, 3)`` RGB, the size of the picture's.
        path: the file to write; its folder must exist.
        exif: ``private``, ``strip`` or ``keep``, see ``apply_policy``. A thumbnail is never kept: it would
            show the old face.
        overwrite: replace an existing file.
        replace_input: allow ``path`` to be the file that the picture was read from.

    Raises:
        ImageError: the suffix is unknown, the file exists, or it cannot be written.
        ValueError: ``pixels`` do not fit the picture.
    """
    path = Path(path)
    if pixels.dtype != np.uint8 or pixels.shape != picture.pixels.shape:
        raise ValueError(f"expected uint8 {picture.pixels.shape}, found {pixels.dtype} {pixels.shape}")
    check_output(path, source=picture.path, overwrite=overwrite, replace_input=replace_input)
    try:
        encoded = _encode(picture, pixels, SUFFIXES[path.suffix.lower()], exif)
    except (OSError, ValueError, RuntimeError) as error:  # WebP, for one, ends at 16383 pixels
        raise ImageError(f"cannot encode {path}: {error}") from error
    with _replacing(path) as file:
        file.write(encoded)


def check_output(path: Path, *, source: Path, overwrite: bool, replace_input: bool = False) -> None:
    """Says early whether ``write_picture`` may write ``path``.

    Raises:
        ImageError: the suffix is unknown, or the file exists or is the input and may not be replaced.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ImageError(
            f"cannot write {path}: the suffix must be one of {', '.join(SUFFIXES)}, found {path.suffix!r}"
        )
    if not path.exists():
        return
    if source.exists() and path.samefile(source):
        if not replace_input:
            raise ImageError(f"{path} is the input itself; choose another output")
    elif not overwrite:
        raise ImageError(f"{path} exists; choose another output or allow overwriting")


def make_folder(folder: Path) -> None:
    """Makes a folder for output, with its parents; an existing one is fine.

    Raises:
        ImageError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"cannot make the folder {folder}: {error.strerror or error}") from error


def _decode(path: Path, image: Image.Image) -> Picture:
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise ImageError(
            f"{path} holds {getattr(image, 'n_frames', 1)} frames; only still pictures are supported"
        )
    image.load()
    exif = clean_exif(image)
    is_jpeg = isinstance(image, JpegImagePlugin.JpegImageFile)
    subsampling = JpegImagePlugin.get_sampling(image) if is_jpeg else -1
    turn = _TURNS.get(orientation_of(image))
    upright = image if turn is None else image.transpose(turn)
    rgb, alpha, icc_profile = _to_rgb(path, upright, image.info.get("icc_profile"))
    return Picture(
        path=path,
        pixels=rgb,
        format="JPEG" if is_jpeg else str(image.format),
        alpha=alpha,
        quantization={k: list(table) for k, table in getattr(image, "quantization", {}).items()},
        subsampling=None if subsampling < 0 else subsampling,
        icc_profile=icc_profile,
        exif=exif,
    )


def _to_rgb(
    path: Path, image: Image.Image, icc_profile: bytes | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None, bytes | None]:
    """RGB pixels, alpha and the profile that fits them."""
    profile_space = icc_profile[16:20] if icc_profile else b""
    if image.mode in _SIXTEEN_BIT:
        grey = np.asarray(image).astype(np.uint16) >> 8
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2), None, None
    if image.mode == "CMYK":
        if icc_profile and profile_space == b"CMYK":
            try:
                image = _cmyk_to_srgb(image, icc_profile)
            except ImageCms.PyCMSError as error:
                logger.warning("the CMYK profile is unusable, converting without it: %s", error)
        return np.array(image.convert("RGB")), None, None
    if image.mode not in _DIRECT:
        raise ImageError(f"{path} has pixels of kind {image.mode}; convert it to 8-bit RGB")
    kept = icc_profile if profile_space == b"RGB " else None
    if not image.has_transparency_data:
        return np.array(image.convert("RGB")), None, kept
    rgba = np.array(image.convert("RGBA"))
    return np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3]), kept


def _cmyk_to_srgb(image: Image.Image, icc_profile: bytes) -> Image.Image:
    converted = ImageCms.profileToProfile(
        image, io.BytesIO(icc_profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert converted is not None  # only with inPlace=True
    return converted


def _encode(picture: Picture, pixels: NDArray[np.uint8], format_: str, policy: ExifPolicy) -> bytes:
    alpha = picture.alpha
    if alpha is not None and format_ in ("JPEG", "BMP"):
        share = alpha[..., None].astype(np.float32) / 255
        pixels, alpha = np.rint(pixels * share + 255 * (1 - share)).astype(np.uint8), None
    image = Image.fromarray(pixels if alpha is None else np.dstack([pixels, alpha]))
    options: dict[str, Any] = {}
    if picture.icc_profile and format_ != "BMP":
        options["icc_profile"] = picture.icc_profile
    if (exif := apply_policy(picture.exif, policy)) and format_ != "BMP":
        options["exif"] = exif
    if format_ == "JPEG":
        if picture.quantization:
            options["qtables"] = [picture.quantization[k] for k in sorted(picture.quantization)]
            options["subsampling"] = (
                picture.subsampling if picture.subsampling is not None else _JPEG_FULL_COLOUR
            )
        else:
            options |= {"quality": _JPEG_QUALITY, "subsampling": _JPEG_FULL_COLOUR}
    elif format_ == "WEBP":
        options |= {"quality": _JPEG_QUALITY, "exact": True}
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


@contextmanager
def _replacing(path: Path) -> Iterator[io.BufferedWriter]:
    """A file that takes its name only once it is written whole."""
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            yield file
        os.replace(part, path)
    except OSError as error:
        raise ImageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
