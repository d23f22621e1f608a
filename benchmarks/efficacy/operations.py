"""What happens to a published picture: Table V's six operations, and JPEG at more qualities."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .published import decode, jpeg

Pixels = NDArray[np.uint8]
Operation = Callable[[Pixels, np.random.Generator], Pixels]

GAUSSIAN_VARIANCE = 0.003  # on [0, 1]
ROTATION_DEGREES = 30.0
CROP_SHARE = 224 / 256


def compress(quality: int) -> Operation:
    """Saved as JPEG once more."""
    return lambda pixels, rng: decode(jpeg(pixels, quality))


def gaussian(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """White noise of variance 0.003 on [0, 1]."""
    noise = rng.normal(0.0, 255 * GAUSSIAN_VARIANCE**0.5, pixels.shape)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def resize(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Halved and enlarged again, bilinear."""
    height, width = pixels.shape[:2]
    picture = Image.fromarray(pixels)
    small = picture.resize((max(1, width // 2), max(1, height // 2)), Image.Resampling.BILINEAR)
    return np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))


def median(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Median of 5x5 pixels."""
    return np.asarray(cv2.medianBlur(np.ascontiguousarray(pixels), 5), dtype=np.uint8)


def rotate(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Turned by up to 30 degrees about its centre, bilinear, black beyond its edges."""
    angle = rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES)
    return np.asarray(Image.fromarray(pixels).rotate(angle, Image.Resampling.BILINEAR))


def crop(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """The central 224 of every 256 pixels."""
    height, width = pixels.shape[:2]
    top, left = (round(side * (1 - CROP_SHARE) / 2) for side in (height, width))
    return np.ascontiguousarray(pixels[top : height - top, left : width - left])


OPERATIONS: dict[str, Operation] = {
    "none": lambda pixels, rng: pixels,
    "resize 1/2": resize,
    "JPEG q50": compress(50),
    "Gaussian 0.003": gaussian,
    "median 5x5": median,
    "rotation 30": rotate,
    "crop 224/256": crop,
    "JPEG q30": compress(30),
    "JPEG q70": compress(70),
    "JPEG q90": compress(90),
}
