"""Exponential moving average of the weights, with a warm-up that forgets the start of a short run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

_Update = Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]


def warmed_decay(decay: float, updates: int) -> float:
    """``min(decay, (1 + t) / (10 + t))``: the average spans a tenth of the steps until ``decay`` binds."""
    return min(decay, (1 + updates) / (10 + updates))


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """A moving average of a network's parameters and buffers; the first update copies it."""
    return AveragedModel(network, multi_avg_fn=_update(decay), use_buffers=True)


def _update(decay: float) -> _Update:
    @torch.no_grad()
    def update(average: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor | int) -> None:
        if average[0].is_floating_point():
            torch._foreach_lerp_(list(average), list(current), 1 - warmed_decay(decay, int(updates)))
        else:  # counters of batch norm
            for mean, value in zip(average, current, strict=True):
                mean.copy_(value)

    return update
