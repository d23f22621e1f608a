"""The attack on face recognition (Eqs. 9, 11, 12)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def impersonation_loss(embedding: Tensor, target: Tensor) -> Tensor:
    """Eq. 9: ``1 - cos(FR(x_target), FR(x_adv))``, mean over the batch.

    Args:
        embedding: ``(N, d)`` unit-norm embeddings of protected faces.
        target: ``(d,)`` unit-norm embedding of the target.

    Returns:
        A number in [0, 2]; lower = closer to the target.
    """
    return (1 - embedding @ target).mean()


def surrogate_weights(previous: Sequence[float] | None, before: Sequence[float] | None, k: int) -> Tensor:
    """Eq. 11: ``w_i = exp(softmax(rate)_i)``, ``rate_i`` = mean loss of the last epoch over the one before.

    A surrogate whose loss falls slowly gets more weight.

    Args:
        previous, before: mean loss of each surrogate over epochs t-1 and t-2, None where there was none
            (the rate is then 1).
        k: number of surrogates.

    Returns:
        ``(k,)`` in (1, e); ``exp(1/k)`` each where all rates are equal.
    """
    rates = torch.ones(k)
    if previous is not None and before is not None:
        rates = torch.tensor(previous) / torch.tensor(before).clamp_min(1e-8)
    return torch.softmax(rates, 0).exp()


def adversarial_attack_loss(primary: Sequence[Tensor], auxiliary: Sequence[Tensor], epsilon: float) -> Tensor:
    """Eq. 12: ``max(1/(2K) sum_p (L_pri_p + L_aux_p), epsilon)``.

    Args:
        primary: losses of the primary tasks, Eq. 9.
        auxiliary: losses of the auxiliary tasks, Eq. 10; as many, or fewer when the primaries take
            turns over the steps: each sum is then a mean over what it holds.
        epsilon: below it the attack is strong enough: the gradient is 0.
    """
    mean = (torch.stack(list(primary)).mean() + torch.stack(list(auxiliary)).mean()) / 2
    return mean.clamp_min(epsilon)
