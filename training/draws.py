"""Random numbers of a batch that do not depend on how it is divided among processes and micro-batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """Draws for a whole batch from torch's global generator, and keeps what belongs to the faces at hand.

    Whoever has a part of the batch draws for all of it, from the same seed and in the same order. So a face
    meets the same numbers wherever it is.

    Attributes:
        whole: faces of the whole batch.
        rows: which of them are at hand, ``(N,)`` int64; None for all, in order.
    """

    whole: int
    rows: Tensor | None = None

    def mine(self, whole: Tensor) -> Tensor:
        """The rows at hand of a tensor that has one for each face of the whole batch."""
        return whole if self.rows is None else whole[self.rows]

    def uniform(self, *shape: int) -> Tensor:
        """``(N, *shape)`` in [0, 1), on the CPU."""
        return self.mine(torch.rand(self.whole, *shape))

    def normal(self, *shape: int) -> Tensor:
        """``(N, *shape)`` of mean 0 and variance 1, on the CPU."""
        return self.mine(torch.randn(self.whole, *shape))

    def normal_like(self, part: Tensor) -> Tensor:
        """As ``torch.randn_like(part)``, for a tensor of the faces at hand: its shape, device and layout."""
        strides = (part[0].numel(), *torch.empty_like(part).stride()[1:])
        whole = torch.empty_strided(
            (self.whole, *part.shape[1:]), strides, dtype=part.dtype, device=part.device
        )
        return self.mine(whole.normal_())
