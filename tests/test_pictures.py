"""Reading and writing photos: what survives, what must not, and what is refused."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, ImageOps, JpegImagePlugin

from runtime.errors import ImageError
from runtime.pictures import Picture, read_picture, write_picture

MAKE, ORIENTATION, GPS, EXIF = (
    ExifTags.Base.Make,
    ExifTags.Base.Orientation,
    ExifTags.IFD.GPSInfo,
    ExifTags.IFD.Exif,
)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture
def pixels() -> np.ndarray:
    """A smooth uint8 (40, 60, 3) picture whose corners differ."""
    y, x = np.mgrid[:40, :60]
    return np.stack([x * 4, y * 6, 255 - x * 2 - y * 2], -1).astype(np.uint8)


def exif_of(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[MAKE] = "Maker"
    exif[ORIENTATION] = orientation
    exif.get_ifd(EXIF)[ExifTags.Base.DateTimeOriginal] = "2024:01:02 03:04:05"
    exif.get_ifd(EXIF)[ExifTags.Base.MakerNote] = b"a preview of the face"
    exif.get_ifd(GPS)[ExifTags.GPS.GPSLatitudeRef] = "N"
    exif.get_ifd(GPS)[ExifTags.GPS.GPSLatitude] = (48.0, 8.0, 0.0)
    return exif.tobytes()


def exif_with_thumbnail() -> bytes:
    """Little-endian EXIF: one tag in the main directory, then IFD1 with a JPEG thumbnail."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, "JPEG")
    thumbnail = buffer.getvalue()
    main = struct.pack("<HHHIIHH", 1, MAKE, 2, 4, int.from_bytes(b"Abc\0", "little"), 0, 0)[:14]
    ifd1_at = 8 + len(main) + 4
    data_at = ifd1_at + 2 + 2 * 12 + 4
    ifd1 = struct.pack("<H", 2)
    ifd1 += struct.pack("<HHII", 0x0201, 4, 1, data_at) + struct.pack("<HHII", 0x0202, 4, 1, len(thumbnail))
    header = b"Exif\0\0II*\0" + struct.pack("<I", 8)
    return header + main + struct.pack("<I", ifd1_at) + ifd1 + struct.pack("<I", 0) + thumbnail


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def rewrite(path: Path, target: Path, **options) -> Picture:
    """Reads, writes the same pixels, reads back."""
    picture = read_picture(path)
    write_picture(picture, picture.pixels, target, **options)
    return read_picture(target)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [60, 92])
def test_jpeg_keeps_tables_subsampling_and_profile(
    tmp_path: Path, pixels: np.ndarray, quality: int, subsampling: int
) -> None:
    source = save(tmp_path / "a.jpg", pixels, quality=quality, subsampling=subsampling, icc_profile=SRGB)
    rewrite(source, tmp_path / "b.jpg")
    with Image.open(source) as before, Image.open(tmp_path / "b.jpg") as after:
        assert after.quantization == before.quantization
        assert JpegImagePlugin.get_sampling(after) == JpegImagePlugin.get_sampling(before) == subsampling
        assert after.info["icc_profile"] == SRGB


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".bmp", ".PNG"])
def test_lossless_formats_keep_every_pixel(tmp_path: Path, pixels: np.ndarray, suffix: str) -> None:
    source = save(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(rewrite(source, tmp_path / f"b{suffix}").pixels, pixels)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_formats_stay_close(tmp_path: Path, pixels: np.ndarray, suffix: str) -> None:
    source = save(tmp_path / "a.png", pixels)
    again = rewrite(source, tmp_path / f"b{suffix}").pixels
    assert np.abs(again.astype(int) - pixels).mean() < 3


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_alpha_survives(tmp_path: Path, pixels: np.ndarray, suffix: str) -> None:
    alpha = np.linspace(0, 255, 40 * 60).reshape(40, 60).astype(np.uint8)
    source = save(tmp_path / "a.png", np.dstack([pixels, alpha]))
    again = rewrite(source, tmp_path / f"b{suffix}")
    assert again.alpha is not None
    np.testing.assert_array_equal(again.alpha, alpha)


def test_jpeg_lays_transparency_on_white(tmp_path: Path, pixels: np.ndarray) -> None:
    alpha = np.zeros((40, 60), np.uint8)
    source = save(tmp_path / "a.png", np.dstack([pixels, alpha]))
    again = rewrite(source, tmp_path / "b.jpg")
    assert again.alpha is None
    assert again.pixels.min() == 255


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(
    tmp_path: Path, pixels: np.ndarray, orientation: int, suffix: str
) -> None:
    source = save(tmp_path / f"a{suffix}", pixels, exif=exif_of(orientation))
    picture = read_picture(source)
    with Image.open(source) as image:
        np.testing.assert_array_equal(picture.pixels, np.array(ImageOps.exif_transpose(image)))
    assert picture.pixels.shape[:2] == ((40, 60) if orientation < 5 else (60, 40))
    again = rewrite(source, tmp_path / "b.png", exif="keep")
    np.testing.assert_array_equal(again.pixels, picture.pixels)
    with Image.open(tmp_path / "b.png") as image:
        assert ORIENTATION not in image.getexif()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize(
    ("policy", "tags"), [("keep", {MAKE, EXIF, GPS}), ("private", {MAKE, EXIF}), ("strip", set())]
)
def test_exif_policies(tmp_path: Path, pixels: np.ndarray, suffix: str, policy: str, tags: set[int]) -> None:
    source = save(tmp_path / f"a{suffix}", pixels, exif=exif_of())
    rewrite(source, tmp_path / f"b{suffix}", exif=policy)
    with Image.open(tmp_path / f"b{suffix}") as image:
        exif = image.getexif()
        assert {MAKE, EXIF, GPS} & set(exif) == tags
        photo = exif.get_ifd(EXIF)
        assert (ExifTags.Base.DateTimeOriginal in photo) == (EXIF in tags)
        assert bool(exif.get_ifd(GPS)) == (GPS in tags)
    assert b"a preview" not in (tmp_path / f"b{suffix}").read_bytes()


SECRETS = {
    0: (ExifTags.Base.ImageDescription, ExifTags.Base.Artist, ExifTags.Base.Copyright),
    EXIF: (
        ExifTags.Base.UserComment,
        ExifTags.Base.CameraOwnerName,
        ExifTags.Base.BodySerialNumber,
        ExifTags.Base.LensSerialNumber,
        ExifTags.Base.ImageUniqueID,
        0xFDE8,  # "Owner's Name: ..." of some converters, which no list of known names would hold
    ),
}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_what_identifies_is_removed_unless_asked_for(tmp_path: Path, pixels: np.ndarray, suffix: str) -> None:
    """Names, serial numbers, ids and free text; how the picture was taken stays."""
    exif = Image.Exif()
    exif[MAKE] = "Maker"
    exif.get_ifd(EXIF)[ExifTags.Base.FNumber] = 2.0
    exif.get_ifd(EXIF)[ExifTags.Base.LensModel] = "50 mm"
    secrets = []
    for ifd, tags in SECRETS.items():
        for tag in tags:
            secrets.append(f"secret {tag}".encode())
            (exif.get_ifd(ifd) if ifd else exif)[tag] = f"secret {tag}"
    source = save(tmp_path / f"a{suffix}", pixels, exif=exif.tobytes())
    rewrite(source, tmp_path / f"kept{suffix}", exif="keep")
    rewrite(source, tmp_path / f"private{suffix}")
    kept = (tmp_path / f"kept{suffix}").read_bytes()
    assert [secret for secret in secrets if secret not in kept] == []
    assert b"secret" not in (tmp_path / f"private{suffix}").read_bytes()
    with Image.open(tmp_path / f"private{suffix}") as image:
        photo = image.getexif().get_ifd(EXIF)
        assert image.getexif()[MAKE] == "Maker"
        assert (photo[ExifTags.Base.FNumber], photo[ExifTags.Base.LensModel]) == (2.0, "50 mm")


def test_nothing_is_written_where_all_exif_identifies(tmp_path: Path, pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Somebody"
    rewrite(save(tmp_path / "a.jpg", pixels, exif=exif.tobytes()), tmp_path / "b.jpg")
    assert b"Exif" not in (tmp_path / "b.jpg").read_bytes()


def test_gps_is_removed_unless_asked_for(tmp_path: Path, pixels: np.ndarray) -> None:
    source = save(tmp_path / "a.jpg", pixels, exif=exif_of())
    rewrite(source, tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as image:
        assert GPS not in image.getexif()
        assert image.getexif()[MAKE] == "Maker"


@pytest.mark.parametrize("policy", ["keep", "private", "strip"])
def test_no_policy_keeps_the_thumbnail(tmp_path: Path, pixels: np.ndarray, policy: str) -> None:
    """It would show the unprotected face: one JPEG starts in the file that is written, not two."""
    source = save(tmp_path / "a.jpg", pixels, exif=exif_with_thumbnail())
    assert source.read_bytes().count(b"\xff\xd8\xff") == 2
    rewrite(source, tmp_path / "b.jpg", exif=policy)
    assert (tmp_path / "b.jpg").read_bytes().count(b"\xff\xd8\xff") == 1


def test_xmp_is_not_copied(tmp_path: Path, pixels: np.ndarray) -> None:
    source = save(tmp_path / "a.jpg", pixels, xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>where</x:xmpmeta>")
    assert b"where" in source.read_bytes()
    rewrite(source, tmp_path / "b.jpg", exif="keep")
    assert b"where" not in (tmp_path / "b.jpg").read_bytes()


def test_unreadable_exif_is_dropped(tmp_path: Path, pixels: np.ndarray) -> None:
    source = save(tmp_path / "a.jpg", pixels, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_picture(source).exif is None


def test_a_phones_multi_picture_file_gives_its_first_picture_only(tmp_path: Path, pixels: np.ndarray) -> None:
    first, second = Image.fromarray(pixels), Image.fromarray(pixels[::-1].copy())
    source = tmp_path / "a.jpg"
    first.save(source, "MPO", save_all=True, append_images=[second], quality=95)
    again = rewrite(source, tmp_path / "b.jpg")
    assert np.abs(again.pixels.astype(int) - pixels).mean() < 4
    with Image.open(tmp_path / "b.jpg") as image:
        assert image.format == "JPEG"


def test_grey_and_palette_and_bilevel_become_rgb(tmp_path: Path) -> None:
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (8, 1)))
    for mode in ("L", "P", "1", "LA"):
        image = ramp.convert(mode)
        image.save(tmp_path / f"{mode}.png")
        expected = np.array(image.convert("RGB"))
        np.testing.assert_array_equal(read_picture(tmp_path / f"{mode}.png").pixels, expected)


def test_sixteen_bit_grey_keeps_its_high_byte(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    source = save(tmp_path / "a.png", values)
    assert read_picture(source).pixels[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_cmyk_becomes_rgb_and_its_jpeg_settings_stay_usable(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    again = rewrite(tmp_path / "a.jpg", tmp_path / "b.jpg")
    assert np.abs(again.pixels.astype(int) - pixels).mean() < 4


def test_a_grey_profile_is_not_attached_to_rgb(tmp_path: Path) -> None:
    grey = SRGB[:16] + b"GRAY" + SRGB[20:]
    Image.new("L", (8, 8), 99).save(tmp_path / "a.jpg", icc_profile=grey)
    assert read_picture(tmp_path / "a.jpg").icc_profile is None


def test_grey_jpeg_can_be_written_again(tmp_path: Path) -> None:
    Image.new("L", (32, 32), 99).save(tmp_path / "a.jpg", quality=70)
    assert np.abs(rewrite(tmp_path / "a.jpg", tmp_path / "b.jpg").pixels.astype(int) - 99).max() <= 1


def test_float_pixels_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.tif", np.zeros((4, 4), np.float32))
    with pytest.raises(ImageError, match=r"a\.tif has pixels of kind F; convert it to 8-bit RGB"):
        read_picture(tmp_path / "a.tif")


def bomb() -> bytes:
    """A PNG header of 60000 x 60000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def test_unreadable_files_are_clear_errors(tmp_path: Path, pixels: np.ndarray) -> None:
    jpeg, png = save(tmp_path / "a.jpg", pixels), save(tmp_path / "a.png", pixels)
    cases = {
        "missing.jpg": (None, "No such file"),
        "text.jpg": (b"not a picture at all", "not a picture of a known format"),
        "empty.png": (b"", "not a picture of a known format"),
        "cut.jpg": (jpeg.read_bytes()[:-200], "truncated"),
        "cut.png": (png.read_bytes()[:-60], "cannot"),
        "header.jpg": (jpeg.read_bytes()[:30], "cannot|known format"),
        "bomb.png": (bomb(), "too large"),
    }
    for name, (data, message) in cases.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageError, match=message) as caught:
            read_picture(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(ImageError, match="cannot read"):
        read_picture(tmp_path)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_animated_pictures_are_refused(tmp_path: Path, pixels: np.ndarray, suffix: str) -> None:
    frames = [Image.fromarray(pixels), Image.fromarray(255 - pixels)]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="holds 2 frames; only still pictures"):
        read_picture(tmp_path / f"a{suffix}")


def test_existing_output_and_input_are_protected(tmp_path: Path, pixels: np.ndarray) -> None:
    source, other = save(tmp_path / "a.png", pixels), save(tmp_path / "b.png", pixels)
    os.link(source, tmp_path / "same.png")
    picture = read_picture(source)
    black = np.zeros_like(pixels)
    with pytest.raises(ImageError, match=r"b\.png exists; choose another output or allow overwriting"):
        write_picture(picture, black, other)
    for same in ("a.png", "same.png"):
        with pytest.raises(ImageError, match="is the input itself"):
            write_picture(picture, black, tmp_path / same, overwrite=True)
    np.testing.assert_array_equal(read_picture(source).pixels, pixels)
    write_picture(picture, black, other, overwrite=True)
    write_picture(picture, black, source, replace_input=True)
    assert not read_picture(other).pixels.any()
    assert not read_picture(source).pixels.any()


def test_a_failed_write_leaves_nothing(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = read_picture(save(tmp_path / "a.png", pixels))

    def full_disk(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(ImageError, match="No space left"):
        write_picture(picture, pixels, tmp_path / "b.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_picture_too_large_for_its_format_is_refused(tmp_path: Path) -> None:
    picture = read_picture(save(tmp_path / "a.png", np.zeros((1, 17000, 3), np.uint8)))
    with pytest.raises(ImageError, match=r"cannot encode .*b\.webp"):
        write_picture(picture, picture.pixels, tmp_path / "b.webp")
    assert not (tmp_path / "b.webp").exists()


def test_bad_outputs_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    picture = read_picture(save(tmp_path / "a.png", pixels))
    with pytest.raises(ImageError, match=r"the suffix must be one of \.jpg, .*found '\.gif'"):
        write_picture(picture, pixels, tmp_path / "b.gif")
    with pytest.raises(ImageError, match="cannot write"):
        write_picture(picture, pixels, tmp_path / "no folder" / "b.png")
    with pytest.raises(ValueError, match=r"expected uint8 \(40, 60, 3\), found uint8 \(2, 60, 3\)"):
        write_picture(picture, pixels[:2], tmp_path / "b.png")
