"""The target identity: a face whose embedding protected faces are moved to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.geometry import crop_transform, transform_points, warp

from .batches import to_network
from .data import DataError, find_landmarks
from .data.folder import PICTURE_SUFFIXES
from .data.landmarks import read_rgb
from .surrogates import Recognizer

TARGET_CROP_PX = 256


def target_pictures(path: Path) -> list[Path]:
    """The target's pictures: one file, or every picture of a folder.

    Raises:
        DataError: there is none.
    """
    found = (
        [path]
        if path.is_file()
        else sorted(p for p in path.glob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
    )
    if not found:
        raise DataError(f"no picture of the target at {path}")
    return found


def unseen_pictures(pictures: Sequence[Path], trained: Collection[str]) -> list[Path]:
    """The target's pictures to test with: those that training did not see, or all where it saw them all.

    Args:
        trained: SHA-256 of the pictures that a run was trained with, its ``about["target_sha256"]``.
    """
    unseen = [picture for picture in pictures if sha256(picture.read_bytes()).hexdigest() not in trained]
    return unseen or list(pictures)


def target_crops(pictures: Sequence[Path]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Aligned crops ``(N, S, S, 3)`` of the target, S = 256, and their landmarks ``(N, 5, 2)``.

    Raises:
        DataError: a picture shows no face.
    """
    landmarks = find_landmarks(pictures)
    crops, points = [], []
    for picture, face in zip(pictures, landmarks, strict=True):
        image = read_rgb(picture)
        if image is None or np.isnan(face).any():
            raise DataError(f"no face was found in the target's picture {picture}")
        matrix = crop_transform(face, TARGET_CROP_PX)
        crops.append(warp(image, matrix, (TARGET_CROP_PX, TARGET_CROP_PX)))
        points.append(transform_points(face, matrix))
    return np.stack(crops), np.stack(points)


def target_embeddings(pictures: Sequence[Path], recognizers: Sequence[Recognizer]) -> list[Tensor]:
    """The target's unit-norm embedding ``(d_i,)`` by each recogniser: the mean over its pictures.

    Raises:
        DataError: a picture shows no face.
    """
    crops, landmarks = target_crops(pictures)
    face_batch, landmark_batch = to_network(crops), torch.from_numpy(landmarks)
    embeddings = []
    for recognizer in recognizers:
        with torch.no_grad():
            grid = recognizer.sampling_grid(landmark_batch, TARGET_CROP_PX)
            mean = recognizer(face_batch, grid).mean(0)
        embeddings.append(mean / mean.norm())
    return embeddings
