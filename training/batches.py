"""Batches of a pack: shuffled by epoch, mirrored at random, the same for the same seed and step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .data import FacePack
from .data.errors import DataError
from .draws import Draws

# Mirroring a face swaps left and right: eyes 0 and 1, mouth corners 3 and 4.
_MIRRORED_LANDMARKS = [1, 0, 2, 4, 3]


@dataclass(frozen=True)
class Batch:
    """One batch of aligned faces, or the part of it that a process or a micro-batch has.

    Attributes:
        face: ``(N, 3, S, S)`` float32 in [-1, 1], channels last in memory.
        landmarks: ``(N, 5, 2)`` float32 in the crop's pixels.
        attributes: ``(N, n)`` float32 in {0, 1}.
        keys: ``(N,)`` int64; the picture's index times two, plus one where it is mirrored.
        all_attributes: ``(M, n)``, those of the whole batch, whose faces borrow them from one another.
        draws: random numbers for these faces.
    """

    face: Tensor
    landmarks: Tensor
    attributes: Tensor
    keys: Tensor
    all_attributes: Tensor
    draws: Draws

    def __len__(self) -> int:
        return len(self.face)

    def split(self, count: int) -> list[Batch]:
        """Equal parts, in order; ``count`` must divide the faces, and a part of a batch alone is split."""
        if count == 1:
            return [self]
        rows = self.draws.rows
        assert rows is not None
        assert len(self) % count == 0
        per_part = len(self) // count
        return [
            dataclasses.replace(
                self,
                face=self.face[part],
                landmarks=self.landmarks[part],
                attributes=self.attributes[part],
                keys=self.keys[part],
                draws=dataclasses.replace(self.draws, rows=rows[part]),
            )
            for part in (slice(i * per_part, (i + 1) * per_part) for i in range(count))
        ]

    def to(self, device: torch.device) -> Batch:
        """With its faces and attributes there; the rest is only read on the CPU."""
        if device.type == "cpu":
            return self
        face, attributes = (
            tensor.pin_memory().to(device, non_blocking=True) for tensor in (self.face, self.attributes)
        )
        return dataclasses.replace(self, face=face, attributes=attributes)


def to_network(crops_u8: np.ndarray) -> Tensor:
    """``(N, S, S, 3)`` uint8 RGB to ``(N, 3, S, S)`` float32 in [-1, 1]: ``v / 127.5 - 1``."""
    return torch.from_numpy(np.ascontiguousarray(crops_u8)).permute(0, 3, 1, 2).float() / 127.5 - 1


def take(pack: FacePack, indices: np.ndarray, mirrored: np.ndarray, rows: np.ndarray | None = None) -> Batch:
    """The faces at ``indices``; those with ``mirrored`` true are flipped left to right.

    Args:
        rows: which of them to read; the others' attributes alone are known. None for all.
    """
    all_attributes = torch.from_numpy(np.array(pack.attributes[indices], dtype=np.float32))
    draws = Draws(len(indices), None if rows is None else torch.from_numpy(rows))
    if rows is not None:
        indices, mirrored = indices[rows], mirrored[rows]
    crops = np.stack(
        [pack.crops[i][:, ::-1] if m else pack.crops[i] for i, m in zip(indices, mirrored, strict=True)]
    )
    landmarks = np.array(pack.landmarks[indices], dtype=np.float32)
    flipped = landmarks[:, _MIRRORED_LANDMARKS] * [-1, 1] + [crops.shape[2] - 1, 0]
    landmarks = np.where(mirrored[:, None, None], flipped, landmarks).astype(np.float32)
    return Batch(
        face=to_network(crops),
        landmarks=torch.from_numpy(landmarks),
        attributes=draws.mine(all_attributes),
        keys=torch.from_numpy(indices.astype(np.int64) * 2 + mirrored),
        all_attributes=all_attributes,
        draws=draws,
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
    pack: FacePack,
    batch: int,
    *,
    seed: int,
    epoch: int,
    first_step: int = 0,
    rows: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Batches of one epoch from ``first_step`` on; nothing depends on the steps before.

    Args:
        rows: which faces of each batch to read; None for all.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(pack))
    mirrored = rng.random(len(pack)) < 0.5
    for step in range(first_step, steps_per_epoch(pack, batch)):
        indices = order[step * batch : (step + 1) * batch]
        yield take(pack, indices, mirrored[indices], rows)
