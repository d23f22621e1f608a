"""EXIF: what of it may be published with a changed picture."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

from PIL import ExifTags, Image

ExifPolicy = Literal["private", "strip", "keep"]

# Of the main directory only what describes the picture. Not kept: the orientation (it is applied to the
# pixels), what describes the old encoding, and anything that may hold another copy of the picture.
_KEPT: tuple[int, ...] = (
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

# What the policy ``private`` lets through, a list of what is harmless: how the picture was taken, with which
# kind of camera, when. Nothing that names a person, a place or one camera, and no free text.
_PRIVATE: frozenset[int] = frozenset(
    {
        ExifTags.Base.Make,
        ExifTags.Base.Model,
        ExifTags.Base.XResolution,
        ExifTags.Base.YResolution,
        ExifTags.Base.ResolutionUnit,
        ExifTags.Base.Software,
        ExifTags.Base.DateTime,
    }
)
_PRIVATE_PHOTO: frozenset[int] = frozenset(
    {
        ExifTags.Base.ExposureTime,
        ExifTags.Base.FNumber,
        ExifTags.Base.ExposureProgram,
        ExifTags.Base.ISOSpeedRatings,
        ExifTags.Base.SensitivityType,
        ExifTags.Base.RecommendedExposureIndex,
        ExifTags.Base.ExifVersion,
        ExifTags.Base.DateTimeOriginal,
        ExifTags.Base.DateTimeDigitized,
        ExifTags.Base.ShutterSpeedValue,
        ExifTags.Base.ApertureValue,
        ExifTags.Base.BrightnessValue,
        ExifTags.Base.ExposureBiasValue,
        ExifTags.Base.MaxApertureValue,
        ExifTags.Base.SubjectDistance,
        ExifTags.Base.MeteringMode,
        ExifTags.Base.LightSource,
        ExifTags.Base.Flash,
        ExifTags.Base.FocalLength,
        ExifTags.Base.ColorSpace,
        ExifTags.Base.SensingMethod,
        ExifTags.Base.CustomRendered,
        ExifTags.Base.ExposureMode,
        ExifTags.Base.WhiteBalance,
        ExifTags.Base.DigitalZoomRatio,
        ExifTags.Base.FocalLengthIn35mmFilm,
        ExifTags.Base.SceneCaptureType,
        ExifTags.Base.GainControl,
        ExifTags.Base.Contrast,
        ExifTags.Base.Saturation,
        ExifTags.Base.Sharpness,
        ExifTags.Base.SubjectDistanceRange,
        ExifTags.Base.LensSpecification,
        ExifTags.Base.LensMake,
        ExifTags.Base.LensModel,
    }
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
        main = {tag: source[tag] for tag in _KEPT if tag in source}
        photo = {k: v for k, v in source.get_ifd(ExifTags.IFD.Exif).items() if k not in _DROPPED_PHOTO}
        return _pack(main, photo, source.get_ifd(ExifTags.IFD.GPSInfo))
    except Exception as error:  # as above
        logger.warning("dropping EXIF that cannot be parsed: %s", error)
        return None


def apply_policy(exif: bytes | None, policy: ExifPolicy) -> bytes | None:
    """The EXIF to write.

    Args:
        exif: what ``clean_exif`` gave.
        policy: ``keep`` for all of it; ``private`` without what tells who, where or with which one camera:
            places, names, serial numbers, picture ids, comments, and tags unknown here; ``strip`` for none.
    """
    if exif is None or policy == "strip":
        return None
    if policy == "keep":
        return exif
    source = Image.Exif()
    source.load(exif)
    main = {tag: source[tag] for tag in _PRIVATE if tag in source}
    photo = {k: v for k, v in source.get_ifd(ExifTags.IFD.Exif).items() if k in _PRIVATE_PHOTO}
    return _pack(main, photo, {})


def _pack(main: Mapping[int, Any], photo: Mapping[int, Any], gps: Mapping[int, Any]) -> bytes | None:
    """EXIF of three directories; ``None`` if all are empty."""
    exif = Image.Exif()
    for tag, value in main.items():
        exif[tag] = value
    for ifd, tags in ((ExifTags.IFD.Exif, photo), (ExifTags.IFD.GPSInfo, gps)):
        if tags:
            exif.get_ifd(ifd).update(tags)
    return exif.tobytes() if main or photo or gps else None
