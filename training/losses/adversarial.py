"""Eq. 3: real against generated."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Eq. 3: ``L_D = -log D(x_cov) - log(1 - D(x_adv))``, mean over the batch.

    Args:
        real_logits, fake_logits: ``(N, 1)`` logits of ``D_G``.

    Returns:
        A number >= 0; ``2 log 2`` where D cannot tell, 0 where it always can.
    """
    return functional.softplus(-real_logits).mean() + functional.softplus(fake_logits).mean()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Eq. 3: ``L_G = -log D(x_adv)``, mean over the batch; >= 0, lower = taken for real."""
    return functional.softplus(-fake_logits).mean()
