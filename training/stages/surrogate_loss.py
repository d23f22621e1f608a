"""What one surrogate says of a protected batch: the loss to lower, and how similar it finds whom."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from ..losses import impersonation_loss, owner_loss
from ..surrogates import Recognizer


def shared_faces(n: int, k: int) -> list[slice]:
    """Which of ``n`` faces each of ``k`` surrogates sees where they share a batch: k nearly equal runs."""
    edges = [i * n // k for i in range(k + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


@dataclass(kw_only=True)
class SurrogateLoss:
    """``L_FR_i`` of Eq. 9 with the owner term, for its faces of one batch.

    Args:
        surrogate: frozen.
        target: ``(d,)`` unit-norm embedding of the target.
        faces: which faces of the batch it sees.
        grid: where it samples them from, ``Recognizer.sampling_grid``.
        owner: ``(n, d)`` embeddings of the same faces unprotected.
        owner_weight, owner_margin: see ``AttackConfig``.

    Attributes:
        similarities: mean cosine to the ``target`` and to the ``owner``, as first evaluated: before a meta
            step.
    """

    surrogate: Recognizer
    target: Tensor
    faces: slice
    grid: Tensor
    owner: Tensor
    owner_weight: float
    owner_margin: float
    similarities: dict[str, Tensor] = field(default_factory=dict, init=False)

    def __call__(self, observed: Tensor) -> Tensor:
        """The loss of ``(N, 3, S, S)`` pictures in [-1, 1], as strangers see them."""
        embedding = self.surrogate(observed[self.faces], self.grid)
        with torch.autocast(embedding.device.type, enabled=False):  # a cosine in bfloat16 has steps of 0.004
            self._note(embedding.detach())
            total = impersonation_loss(embedding, self.target)
            if self.owner_weight:
                total = total + self.owner_weight * owner_loss(embedding, self.owner, self.owner_margin)
        return total

    @torch.no_grad()
    def _note(self, embedding: Tensor) -> None:
        if not self.similarities:
            self.similarities["target"] = (embedding @ self.target).mean()
            self.similarities["owner"] = (embedding * self.owner).sum(1).mean()
