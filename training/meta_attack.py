"""The meta-auxiliary attack (Eqs. 9-12, Algorithm 1): surrogates take turns as the primary task.

Meta-train takes a gradient step on the primary; meta-test asks the other surrogates how good the step
was. Their gradient flows back through the step, so it holds second derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .losses import adversarial_attack_loss

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class AttackLosses:
    """Result of one meta-auxiliary step.

    Attributes:
        total: ``L_adv`` of Eq. 12.
        primary: ``(K,)`` detached loss of each surrogate on ``x_adv`` (Eq. 9, and the owner term if any).
        auxiliary: detached mean of the auxiliary losses (Eq. 10).
        protected: ``x_adv`` of the unchanged parameters, with its graph.
        observed: what the surrogates saw of it, with its graph.
    """

    total: Tensor
    primary: Tensor
    auxiliary: Tensor
    protected: Tensor
    observed: Tensor


def meta_auxiliary_attack(
    protect: Callable[[Parameters], Tensor],
    observe: Callable[[Tensor], Tensor],
    attack_losses: Sequence[Callable[[Tensor], Tensor]],
    parameters: Parameters,
    *,
    weights: Tensor,
    primaries: Sequence[int],
    inner_lr: float,
    epsilon: float,
    second_order: bool = True,
    meta: bool = True,
    mean_over_ranks: Callable[[Sequence[Tensor]], list[Tensor]] = list,
) -> AttackLosses:
    """Eqs. 9-12 for one batch.

    Args:
        protect: ``theta -> x_adv``; called once for theta and once for each primary's theta'.
        observe: what becomes of ``x_adv`` on its way to the recognisers (paste-back, noise pool).
        attack_losses: ``L_FR_i`` of each surrogate, from what it observes to a number.
        parameters: theta_E, the perturbation encoder's.
        weights: ``(K,)`` w_i(t) of Eq. 11.
        primaries: which surrogates are primary in this step: all K (Algorithm 1), or fewer that take
            turns over the steps (the same expectation for less).
        inner_lr: learning rate of the step to theta'.
        epsilon: Eq. 12's bound.
        second_order: differentiate through the inner gradient; False treats it as a constant.
        meta: False leaves the step to theta' out: the auxiliary losses are taken at theta.
        mean_over_ranks: of each tensor, differentiable, where processes share a batch: the step to theta'
            and Eq. 12's bound are the whole batch's.

    Raises:
        ValueError: fewer than two surrogates, or no primary.
    """
    k = len(attack_losses)
    if k < 2 or not primaries:
        raise ValueError(f"expected at least 2 surrogates and 1 primary, found {k} and {len(primaries)}")
    protected = protect(parameters)
    observed = observe(protected)
    primary = [loss(observed) for loss in attack_losses]
    auxiliary = []
    for p in primaries:
        losses = primary
        if meta:
            updated = _inner_step(primary[p], parameters, inner_lr, second_order, mean_over_ranks)
            observed_updated = observe(protect(updated))
            losses = [
                primary[q] if q == p else loss(observed_updated) for q, loss in enumerate(attack_losses)
            ]
        others = [weights[q] * losses[q] for q in range(k) if q != p]
        auxiliary.append(torch.stack(others).sum() / (k - 1))
    means = mean_over_ranks([*primary, *auxiliary])
    primary, auxiliary = means[:k], means[k:]
    return AttackLosses(
        total=adversarial_attack_loss(primary, auxiliary, epsilon),
        primary=torch.stack(primary).detach(),
        auxiliary=torch.stack(auxiliary).mean().detach(),
        protected=protected,
        observed=observed,
    )


def _inner_step(
    loss: Tensor,
    parameters: Parameters,
    lr: float,
    second_order: bool,
    mean_over_ranks: Callable[[Sequence[Tensor]], list[Tensor]],
) -> Parameters:
    """Eq. 10: ``theta' = theta - lr * grad L``, differentiable through the gradient if second order."""
    gradients = torch.autograd.grad(
        loss, list(parameters.values()), create_graph=second_order, retain_graph=True
    )
    return {
        name: theta - lr * gradient
        for (name, theta), gradient in zip(parameters.items(), mean_over_ranks(gradients), strict=True)
    }
