"""Five landmarks of the main face of every picture, by facenet-pytorch's MTCNN, found once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

logger = logging.getLogger(__name__)

# Pixels of the pictures that the detector takes at once: 32 of FFHQ's.
_BATCH_PIXELS = 2**25


def read_rgb(path: Path) -> NDArray[np.uint8] | None:
    """Reads a picture upright as ``(H, W, 3)``; a broken one is logged and gives None: a run outlives it."""
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    # A damaged file makes Pillow raise anything: SyntaxError, struct.error, DecompressionBombError, ...
    except Exception as error:
        logger.warning("left out %s: it cannot be read (%s)", path, error)
        return None


def _main_face(points: NDArray | None, size_hw: tuple[int, int]) -> NDArray | None:
    """The face nearest to the picture's centre: data sets centre the one they label."""
    if points is None or len(points) == 0:
        return None
    faces = np.asarray(points, dtype=np.float64)
    centre = np.array([size_hw[1] / 2, size_hw[0] / 2])
    return faces[np.linalg.norm(faces.mean(1) - centre, axis=1).argmin()]


def find_landmarks(
    paths: Sequence[Path],
    *,
    device: str = "cpu",
    batch: int = 32,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> NDArray[np.float64]:
    """Landmarks of the face nearest to each picture's centre.

    Args:
        paths: pictures.
        progress: wraps the iteration over batches, for a progress bar.

    Returns:
        ``(len(paths), 5, 2)`` in pixels; NaN where no face was found or the picture cannot be read.
    """
    from facenet_pytorch import MTCNN

    detector = MTCNN(keep_all=True, device=device)
    found = np.full((len(paths), 5, 2), np.nan)
    for start in progress(range(0, len(paths), batch)):
        pictures = [
            (index, image)
            for index, path in enumerate(paths[start : start + batch], start)
            if (image := read_rgb(path)) is not None
        ]
        # MTCNN stacks a batch, so the pictures in it must have one size.
        pictures.sort(key=lambda item: item[1].shape)
        for shape, group in groupby(pictures, key=lambda item: item[1].shape):
            members = list(group)
            at_once = max(1, _BATCH_PIXELS // (shape[0] * shape[1]))
            for first in range(0, len(members), at_once):
                indices, images = zip(*members[first : first + at_once], strict=True)
                detected = _detect(detector, images, [paths[index] for index in indices])
                for index, faces in zip(indices, detected, strict=True):
                    face = _main_face(faces, shape[:2])
                    if face is not None:
                        found[index] = face
    return found


def _detect(
    detector: Any, images: Sequence[NDArray[np.uint8]], paths: Sequence[Path]
) -> Sequence[NDArray | None]:
    """Landmarks of every face in pictures of one size.

    MTCNN raises where a picture leaves it nothing to look at, as one smaller than its smallest face does;
    then the others of its batch are looked at one by one.
    """
    try:
        return detector.detect(np.stack(images), landmarks=True)[2]
    except (RuntimeError, ValueError) as error:
        if len(images) == 1:
            logger.warning("left out %s: the detector cannot look at it (%s)", paths[0], error)
            return [None]
        return [_detect(detector, [image], [path])[0] for image, path in zip(images, paths, strict=True)]
