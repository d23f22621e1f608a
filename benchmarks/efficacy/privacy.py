"""How alike an anonymised face, or a reconstruction of it, and the clean one look."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.geometry import CROP_FEATHER, crop_transform, warp
from training.evaluation import Estimate, mean_of

from .pictures import Perceptual, quality_and_distances
from .published import Pixels

# Of what ``privacy_of`` gives: the area, and the measure in it.
Measured = dict[str, float]


def aligned(pixels: Pixels, landmarks: NDArray[np.floating], size_px: int) -> Pixels:
    """The face as it enters the network: ``(S, S, 3)``."""
    return warp(pixels, crop_transform(landmarks, size_px), (size_px, size_px))


def areas_of(size_px: int) -> dict[str, tuple[slice, slice]]:
    """Parts of an aligned face.

    ``crop`` is all of it, as people see it; ``core`` is what of it is wholly replaced: around that the photo
    shines through, and is as alike as it ever was.
    """
    margin = math.ceil(CROP_FEATHER * size_px)
    core = slice(margin, size_px - margin)
    return {"crop": (slice(None), slice(None)), "core": (core, core)}


def privacy_of(source: Pixels, other: Pixels, perceptual: Mapping[str, Perceptual]) -> Measured:
    """SSIM, PSNR and the like of two aligned faces ``(S, S, 3)``, as ``AREA/MEASURE``."""
    return {
        f"{area}/{measure}": value
        for area, part in areas_of(len(source)).items()
        for measure, value in quality_and_distances(perceptual, source[part], other[part]).items()
    }


def means_of(arrays: Mapping[str, NDArray], prefix: str) -> dict[str, dict[str, Estimate]]:
    """Means by area and measure of the arrays called ``PREFIX/AREA/MEASURE``."""
    means: dict[str, dict[str, Estimate]] = {}
    for name, values in arrays.items():
        if name.startswith(f"{prefix}/"):
            area, measure = name.removeprefix(f"{prefix}/").split("/")
            means.setdefault(area, {})[measure] = mean_of(values)
    return means


def with_prefix(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The same under ``PREFIX/NAME``."""
    return {f"{prefix}/{name}": value for name, value in values.items()}
