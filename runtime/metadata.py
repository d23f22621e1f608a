"""EXIF: what of it may be published with a changed picture."""

from __future__ import annotations

import logging
from typing import Literal

from PIL import ExifTags, Image

ExifPolicy = Literal["keep", "no-gps", "strip"]

# Of the main directory only what describes the picture. Not kept: the orientation (it is applied to the
# pixels), what describes the old encoding, and anything that may hold another copy of the picture.
_KEPT = (
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.XResolution,
    ExifTags.Base.YResolution,
    ExifTags.Base.ResolutionUnit,
    ExifTags.Base.Software,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.Copyright,
)
# Makers' notes often hold a preview of the picture. The sizes are of the old encoding.
_DROPPED_PHOTO = (
    ExifTags.Base.MakerNote,
    ExifTags.Base.ExifImageWidth,
    ExifTags.Base.ExifImageHeight,
    ExifTags.IFD.Interop,
)

logger = logging.getLogger(__name__)


def orientation_of(image: Image.Image) -> int:
    """How the stored pixels are turned, 1 to 8 as in EXIF; 1, upright, if it is not said or unreadable."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:  # Pillow's parser raises whatever malformed data make it raise
        logger.warning("taking the picture as upright, its EXIF cannot be parsed: %s", error)
        return 1
    return value if value in range(1, 9) else 1


def clean_exif(image: Image.Image) -> bytes | None:
    """A picture's EXIF without thumbnail, maker's note and orientation; ``None`` if nothing remains.

    EXIF that cannot be parsed is dropped, with a warning in the log.
    """
    try:
        source = image.getexif()
        kept = Image.Exif()
        for tag in _KEPT:
            if tag in source:
                kept[tag] = source[tag]
        photo = {k: v for k, v in source.get_ifd(ExifTags.IFD.Exif).items() if k not in _DROPPED_PHOTO}
        if photo:
            kept.get_ifd(ExifTags.IFD.Exif).update(photo)
        if gps := source.get_ifd(ExifTags.IFD.GPSInfo):
            kept.get_ifd(ExifTags.IFD.GPSInfo).update(gps)
        return kept.tobytes() if len(kept) or photo or gps else None
    except Exception as error:  # as above
        logger.warning("dropping EXIF that cannot be parsed: %s", error)
        return None


def apply_policy(exif: bytes | None, policy: ExifPolicy) -> bytes | None:
    """The EXIF to write: all of ``clean_exif``'s, without the place, or none."""
    if exif is None or policy == "strip":
        return None
    if policy == "keep":
        return exif
    parsed = Image.Exif()
    parsed.load(exif)
    parsed.get_ifd(ExifTags.IFD.Exif)
    if ExifTags.IFD.GPSInfo in parsed:
        del parsed[ExifTags.IFD.GPSInfo]
    return parsed.tobytes()
