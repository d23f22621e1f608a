"""Protects faces in photos from face recognition, and lets a trusted authority erase the protection.

>>> import runtime
>>> with runtime.Protector(runtime.open_bundle(runtime.default_bundle("public"))) as protector:
...     picture = runtime.read_picture("photo.jpg")
...     result = protector.protect(picture.pixels)
...     runtime.write_picture(picture, result.pixels, "protected.jpg")

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .anonymiser import Anonymiser
    from .backends.triton import TritonServer
    from .detection import FaceDetector
    from .errors import (
        BackendError,
        BundleError,
        ErasableMaskError,
        ImageError,
        MissingExtraError,
        NoFaceError,
        RecognizerError,
        SecretError,
    )
    from .manifest import Bundle, Manifest, open_bundle
    from .pictures import Picture, read_picture, write_picture
    from .pipeline import Eraser, Protector
    from .results import AnonymiseResult, EraseResult, Face, FaceReport, ProtectResult
    from .shipped import default_bundle

__all__ = [
    "AnonymiseResult",
    "Anonymiser",
    "BackendError",
    "Bundle",
    "BundleError",
    "ErasableMaskError",
    "EraseResult",
    "Eraser",
    "Face",
    "FaceDetector",
    "FaceReport",
    "ImageError",
    "Manifest",
    "MissingExtraError",
    "NoFaceError",
    "Picture",
    "ProtectResult",
    "Protector",
    "RecognizerError",
    "SecretError",
    "TritonServer",
    "default_bundle",
    "open_bundle",
    "read_picture",
    "write_picture",
]

_HOMES = {
    "anonymiser": ("Anonymiser",),
    "backends.triton": ("TritonServer",),
    "detection": ("FaceDetector",),
    "errors": (
        "BackendError",
        "BundleError",
        "ErasableMaskError",
        "ImageError",
        "MissingExtraError",
        "NoFaceError",
        "RecognizerError",
        "SecretError",
    ),
    "manifest": ("Bundle", "Manifest", "open_bundle"),
    "pictures": ("Picture", "read_picture", "write_picture"),
    "pipeline": ("Eraser", "Protector"),
    "results": ("AnonymiseResult", "EraseResult", "Face", "FaceReport", "ProtectResult"),
    "shipped": ("default_bundle",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
