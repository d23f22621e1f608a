"""Eq. 4: attribute classification."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def attribute_loss(logits: Tensor, attributes: Tensor) -> Tensor:
    """Eq. 4: binary cross-entropy summed over the attributes, mean over the batch.

    Args:
        logits: ``(N, n)`` of ``D_att``.
        attributes: ``(N, n)`` in [0, 1].

    Returns:
        A number >= 0; ``n log 2`` for a classifier that knows nothing, 0 for a perfect one.
    """
    loss = functional.binary_cross_entropy_with_logits(logits, attributes.to(logits.dtype), reduction="none")
    return loss.sum(1).mean()
