"""Aligned faces, and inputs made of them, for the comparison of an exported network with the trained one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from .errors import ExportError

FacesU8 = NDArray[np.uint8]

# How many are compared.
PARITY_FACES = 48

SUFFIXES = (".png", ".jpg", ".jpeg")


def load_faces(path: Path, size_px: int, limit: int) -> FacesU8:
    """Reads aligned crops: a NumPy file ``(N, S, S, 3)``, a pack with such a ``crops.npy``, or pictures.

    Args:
        path: the file or folder.
        size_px: the side ``S`` that the networks expect.
        limit: faces at most, evenly spaced over those there are.

    Returns:
        uint8 ``(N, S, S, 3)`` RGB, 1 <= N <= limit.

    Raises:
        ExportError: there are none, they cannot be read, or they are of another size or dtype.
    """
    if path.is_dir() and (path / "crops.npy").is_file():
        path = path / "crops.npy"
    faces = _read_pictures(path, limit) if path.is_dir() else _read_array(path, limit)
    if faces.dtype != np.uint8 or faces.shape[1:] != (size_px, size_px, 3) or not len(faces):
        raise ExportError(
            f"expected aligned faces uint8 (N, {size_px}, {size_px}, 3) in {path}, "
            f"found {faces.dtype} {faces.shape}; name faces of the run's own size"
        )
    return faces


def synthetic_faces(count: int, size_px: int, *, seed: int = 0) -> FacesU8:
    """Smooth coloured pictures, the same for the same seed; no faces, but of a photo's range and scale.

    Returns:
        uint8 ``(count, size_px, size_px, 3)``.
    """
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    smooth = [Image.fromarray(c).resize((size_px, size_px), Image.Resampling.BICUBIC) for c in coarse]
    grain = rng.normal(0.0, 3.0, (count, size_px, size_px, 3))
    return np.clip(np.stack([np.asarray(s) for s in smooth]) + grain, 0, 255).astype(np.uint8)


def inputs_of(network: str, faces: FacesU8, n_attributes: int) -> dict[str, NDArray]:
    """A network's inputs for some faces, by name; the same for the same faces.

    The knobs of ``protect`` are drawn over their whole range, for an export must not freeze them.

    Args:
        network: its name.
        faces: uint8 ``(N, S, S, 3)``.
        n_attributes: length of the attribute vector.
    """
    inputs: dict[str, NDArray] = {"faces": faces}
    if network == "protect":
        rng = np.random.default_rng(0)
        inputs["attributes"] = rng.integers(0, 2, (len(faces), n_attributes)).astype(np.float32)
        inputs["strength"] = rng.random((len(faces), 1), dtype=np.float32)
        inputs["injection"] = rng.random((len(faces), 1), dtype=np.float32)
    return inputs


def anonymise_inputs(faces: FacesU8, cells: int) -> dict[str, NDArray]:
    """As ``inputs_of``, for ``anonymise``, its strength and noise drawn over their whole range.

    Args:
        faces: uint8 ``(N, S, S, 3)``.
        cells: of the noise ``shade``, a side.
    """
    rng = np.random.default_rng(0)
    count, side_px = faces.shape[:2]
    return {
        "faces": faces,
        "grain": rng.standard_normal((count, 1, side_px, side_px), dtype=np.float32),
        "shade": rng.standard_normal((count, 3, cells, cells), dtype=np.float32),
        "strength": rng.random((count, 1), dtype=np.float32),
    }


def resized(faces: FacesU8, size_px: int) -> FacesU8:
    """Faces ``(N, S, S, 3)`` at another side: ``(N, size_px, size_px, 3)``, area-filtered."""
    pictures = [Image.fromarray(face).resize((size_px, size_px), Image.Resampling.BOX) for face in faces]
    return np.stack([np.asarray(picture) for picture in pictures])


def _read_array(path: Path, limit: int) -> FacesU8:
    try:
        faces = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ExportError(f"cannot read faces from {path}: {error}; name a NumPy file or a folder") from error
    if not isinstance(faces, np.ndarray):
        raise ExportError(f"expected one array in {path}, found an archive of several; save it with np.save")
    if faces.ndim != 4:
        raise ExportError(
            f"expected an array (N, S, S, 3) in {path}, found {faces.dtype} {faces.shape}; name another file"
        )
    return np.ascontiguousarray(faces[_spread(len(faces), limit)])


def _read_pictures(folder: Path, limit: int) -> FacesU8:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ExportError(
            f"no crops.npy and no pictures ({', '.join(SUFFIXES)}) in {folder}; name another folder"
        )
    pictures = []
    for index in _spread(len(paths), limit):
        try:
            with Image.open(paths[index]) as picture:
                pictures.append(np.asarray(picture.convert("RGB")))
        except (OSError, UnidentifiedImageError) as error:
            raise ExportError(
                f"cannot read the picture {paths[index]}: {error}; mend or remove it"
            ) from error
    if len({picture.shape for picture in pictures}) > 1:
        raise ExportError(f"the pictures in {folder} differ in size; name aligned crops of one size")
    return np.stack(pictures)


def _spread(count: int, limit: int) -> NDArray[np.intp]:
    return np.linspace(0, count - 1, min(count, limit)).round().astype(np.intp)
