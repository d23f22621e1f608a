"""Batches of a pack: shuffled by epoch, mirrored at random, the same for the same seed and step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .data import FacePack
from .data.errors import DataError

# Mirroring a face swaps left and right: eyes 0 and 1, mouth corners 3 and 4.
_MIRRORED_LANDMARKS = [1, 0, 2, 4, 3]


@dataclass(frozen=True)
class Batch:
    """One batch of aligned faces.

    Attributes:
        face: ``(N, 3, S, S)`` float32 in [-1, 1], channels last in memory.
        landmarks: ``(N, 5, 2)`` float32 in the crop's pixels.
        attributes: ``(N, n)`` float32 in {0, 1}.
        keys: ``(N,)`` int64; the picture's index times two, plus one where it is mirrored.
    """

    face: Tensor
    landmarks: Tensor
    attributes: Tensor
    keys: Tensor

    def __len__(self) -> int:
        return len(self.face)


def to_network(crops_u8: np.ndarray) -> Tensor:
    """``(N, S, S, 3)`` uint8 RGB to ``(N, 3, S, S)`` float32 in [-1, 1]: ``v / 127.5 - 1``."""
    return torch.from_numpy(np.ascontiguousarray(crops_u8)).permute(0, 3, 1, 2).float() / 127.5 - 1


def take(pack: FacePack, indices: np.ndarray, mirrored: np.ndarray) -> Batch:
    """The faces at ``indices``; those with ``mirrored`` true are flipped left to right."""
    crops = np.stack(
        [pack.crops[i][:, ::-1] if m else pack.crops[i] for i, m in zip(indices, mirrored, strict=True)]
    )
    landmarks = np.array(pack.landmarks[indices], dtype=np.float32)
    flipped = landmarks[:, _MIRRORED_LANDMARKS] * [-1, 1] + [crops.shape[2] - 1, 0]
    landmarks = np.where(mirrored[:, None, None], flipped, landmarks).astype(np.float32)
    return Batch(
        face=to_network(crops),
        landmarks=torch.from_numpy(landmarks),
        attributes=torch.from_numpy(np.array(pack.attributes[indices], dtype=np.float32)),
        keys=torch.from_numpy(indices.astype(np.int64) * 2 + mirrored),
    )


def steps_per_epoch(pack: FacePack, batch: int) -> int:
    """Whole batches in a pack; a remainder is left to another epoch's shuffle.

    Raises:
        DataError: there is not even one.
    """
    if len(pack) < batch:
        raise DataError(f"expected at least one batch of {batch} faces, found {len(pack)}")
    return len(pack) // batch


def epoch_batches(
    pack: FacePack, batch: int, *, seed: int, epoch: int, first_step: int = 0
) -> Iterator[Batch]:
    """Batches of one epoch from ``first_step`` on; nothing depends on the steps before."""
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(pack))
    mirrored = rng.random(len(pack)) < 0.5
    for step in range(first_step, steps_per_epoch(pack, batch)):
        indices = np.sort(order[step * batch : (step + 1) * batch])
        yield take(pack, indices, mirrored[indices])
