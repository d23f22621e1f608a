"""The meta-auxiliary attack: hand-derived values and the true second-order gradient."""

import pytest
import torch
from torch.autograd import gradcheck

from training.meta_attack import meta_auxiliary_attack


def attack(
    theta,
    *,
    losses,
    observe=lambda protected: protected,
    weights=None,
    primaries=(0,),
    inner_lr=0.1,
    second_order=True,
    meta=True,
    epsilon=-1e9,
):
    return meta_auxiliary_attack(
        lambda parameters: parameters["theta"],
        observe,
        losses,
        {"theta": theta},
        weights=torch.ones(len(losses), dtype=theta.dtype) if weights is None else weights,
        primaries=list(primaries),
        inner_lr=inner_lr,
        epsilon=epsilon,
        second_order=second_order,
        meta=meta,
    )


def quadratics():
    """L_0 = theta^2 and L_1 = (theta - 3)^2."""
    return [lambda x: (x**2).sum(), lambda x: ((x - 3) ** 2).sum()]


def test_one_step_by_hand():
    """theta = 1, primary 0: gradient 2, theta' = 1 - 0.1 * 2 = 0.8, L_aux = (0.8 - 3)^2 = 4.84.

    Primaries are L_0 = 1 and L_1 = 4, so L_adv = (mean(1, 4) + 4.84) / 2 = 3.67.
    """
    result = attack(torch.tensor([1.0], dtype=torch.float64, requires_grad=True), losses=quadratics())
    assert result.auxiliary.item() == pytest.approx(4.84)
    assert result.primary.tolist() == [1.0, 4.0]
    assert result.total.item() == pytest.approx(3.67)


def test_surrogates_see_what_is_observed_before_and_after_the_step():
    """Twice theta = 1: L_0 = 4, gradient 8, theta' = 1 - 0.1 * 8 = 0.2, L_aux = (2 * 0.2 - 3)^2 = 6.76."""
    theta = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    result = attack(theta, losses=quadratics(), observe=lambda protected: 2 * protected)
    assert result.primary.tolist() == [4.0, 1.0]
    assert result.auxiliary.item() == pytest.approx(6.76)
    assert (result.protected.item(), result.observed.item()) == (1.0, 2.0)


def test_second_order_gradient_by_hand():
    """theta' = 0.8 theta, so dL_aux/dtheta = 2 (theta' - 3) * 0.8 = -3.52; the primaries give (2 - 4) / 2.

    dL_adv = (-1 - 3.52) / 2 = -2.26. First order drops the factor 0.8: (-1 - 4.4) / 2 = -2.7.
    """
    for second_order, expected in ((True, -2.26), (False, -2.7)):
        theta = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
        attack(theta, losses=quadratics(), second_order=second_order).total.backward()
        assert theta.grad.item() == pytest.approx(expected)


def test_auxiliary_losses_are_weighted():
    """Weight 2 on the only auxiliary doubles it: 9.68."""
    theta = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    result = attack(theta, losses=quadratics(), weights=torch.tensor([5.0, 2.0], dtype=torch.float64))
    assert result.auxiliary.item() == pytest.approx(9.68)


def test_gradient_through_a_network_agrees_with_finite_differences():
    """Three surrogates, all primaries, a non-linear protector: gradcheck in float64."""
    torch.manual_seed(0)
    source = torch.randn(2, 4, dtype=torch.float64)
    surrogates = [torch.randn(3, 4, dtype=torch.float64) for _ in range(3)]
    losses = [
        lambda x, s=s: (1 - torch.nn.functional.normalize(x @ s.T, dim=1)[:, 0]).mean() for s in surrogates
    ]

    def total(theta):
        result = meta_auxiliary_attack(
            lambda parameters: torch.tanh(source @ parameters["theta"]),
            lambda protected: 0.9 * protected,
            losses,
            {"theta": theta},
            weights=torch.tensor([1.1, 1.2, 1.3], dtype=torch.float64),
            primaries=[0, 1, 2],
            inner_lr=0.5,
            epsilon=-1e9,
        )
        return result.total

    assert gradcheck(total, (torch.randn(4, 4, dtype=torch.float64, requires_grad=True),))


def test_turns_have_the_expectation_of_all_primaries():
    """The mean of L_adv over single primaries equals L_adv with all of them."""
    theta = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    losses = [*quadratics(), lambda x: (x**4).sum()]
    every = attack(theta, losses=losses, primaries=(0, 1, 2)).total
    turns = [attack(theta, losses=losses, primaries=(p,)).total for p in range(3)]
    assert torch.stack(turns).mean().item() == pytest.approx(every.item())


def test_without_the_meta_step_auxiliaries_are_taken_at_the_parameters():
    """theta = 1: L_aux = L_1(1) = 4, what a vanishing inner learning rate gives, gradient included."""
    gradients = []
    for options in ({"meta": False}, {"inner_lr": 0.0}):
        theta = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
        result = attack(theta, losses=quadratics(), **options)
        assert result.auxiliary.item() == pytest.approx(4.0)
        gradients.append(torch.autograd.grad(result.total, theta)[0].item())
    assert gradients[0] == pytest.approx(gradients[1])


def test_it_says_what_it_needs():
    with pytest.raises(ValueError, match="at least 2 surrogates and 1 primary, found 1 and 1"):
        attack(torch.ones(1, requires_grad=True), losses=quadratics()[:1])
