"""What detection and work on faces give back. All frozen; all lengths in pixels of the picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Face:
    """A detected face.

    Attributes:
        box: ``(x0, y0, x1, y1)`` in pixels; may leave the picture a little.
        landmarks: ``(5, 2)`` float64 in the order and convention of ``runtime.geometry``.
        score: the detector's probability, in (0, 1].
    """

    box: tuple[float, float, float, float]
    landmarks: NDArray[np.floating]
    score: float

    @property
    def size_px(self) -> float:
        """The longer side of the box."""
        x0, y0, x1, y1 = self.box
        return max(x1 - x0, y1 - y0)


@dataclass(frozen=True, kw_only=True, eq=False)
class FaceReport:
    """What was done to one face.

    Attributes:
        face: where it is.
        attributes: what the network was given, 0 or 1 by name; empty where it takes none.
        mean_change: mean absolute difference of the aligned crop's pixels, in levels of 0..255, before the
            paste mask.
    """

    face: Face
    mean_change: float
    attributes: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "box": [round(value, 2) for value in self.face.box],
            "landmarks": np.round(self.face.landmarks, 2).tolist(),
            "score": round(self.face.score, 4),
            "mean_change": round(self.mean_change, 3),
            "attributes": dict(self.attributes),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class ProtectResult:
    """A protected picture.

    Attributes:
        pixels: uint8 ``(H, W, 3)`` RGB, the size of the input.
        faces: one report for each face, the largest first.
        strength: the share of the perturbation used, in [0, 1].
        injection: the weight of the clean branch used, in [0, 1].
    """

    pixels: NDArray[np.uint8]
    faces: tuple[FaceReport, ...]
    strength: float
    injection: float


@dataclass(frozen=True, kw_only=True, eq=False)
class EraseResult:
    """A picture with its protection erased.

    Attributes:
        pixels: uint8 ``(H, W, 3)`` RGB, the size of the input.
        faces: one report for each face, the largest first.
    """

    pixels: NDArray[np.uint8]
    faces: tuple[FaceReport, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class AnonymiseResult:
    """A picture whose faces were replaced.

    Attributes:
        pixels: uint8 ``(H, W, 3)`` RGB, the size of the input.
        faces: one report for each face, the largest first.
        strength: of the noise that was injected, in (0, 1].
    """

    pixels: NDArray[np.uint8]
    faces: tuple[FaceReport, ...]
    strength: float
