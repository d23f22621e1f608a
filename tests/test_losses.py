"""Losses: every expected value is worked out by hand in the docstring."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from training import losses


def test_discriminator_loss_of_an_undecided_discriminator():
    """Logit 0 is probability 1/2: -log 1/2 - log 1/2 = 2 log 2 (Eq. 3)."""
    zero = torch.zeros(4, 1)
    assert losses.discriminator_loss(zero, zero).item() == pytest.approx(2 * math.log(2))


def test_discriminator_loss_asks_for_real_above_and_generated_below():
    """Real at probability 3/4, generated at 1/4: -log 3/4 twice; the other way round -log 1/4 twice."""
    high, low = torch.full((2, 1), math.log(3)), torch.full((2, 1), -math.log(3))
    assert losses.discriminator_loss(high, low).item() == pytest.approx(-2 * math.log(0.75))
    assert losses.discriminator_loss(low, high).item() == pytest.approx(-2 * math.log(0.25))


def test_generator_loss_is_minus_log_probability():
    """Logit log 3 is probability 3/4: -log 3/4."""
    assert losses.generator_loss(torch.full((2, 1), math.log(3))).item() == pytest.approx(-math.log(0.75))


def test_attribute_loss_sums_over_attributes_and_averages_over_faces():
    """Three attributes at logit 0 cost 3 log 2 a face, whatever the label (Eq. 4)."""
    labels = torch.tensor([[0.0, 1, 1], [1, 0, 0]])
    assert losses.attribute_loss(torch.zeros(2, 3), labels).item() == pytest.approx(3 * math.log(2))


def test_attribute_loss_is_low_for_the_right_label():
    """Logit log 3 says 3/4 for the attribute: -log 3/4 where it is there, -log 1/4 where it is not."""
    logits = torch.full((1, 1), math.log(3))
    for label, probability in ((1.0, 0.75), (0.0, 0.25)):
        loss = losses.attribute_loss(logits, torch.tensor([[label]]))
        assert loss.item() == pytest.approx(-math.log(probability))


def test_reconstruction_loss_is_the_mean_absolute_difference():
    assert losses.reconstruction_loss(torch.full((1, 3, 2, 2), 0.5), torch.zeros(1, 3, 2, 2)) == 0.5


def test_erasure_loss_is_the_euclidean_norm():
    """12 differences of 0.5: sqrt(12 * 0.25) = sqrt 3; the other face has none: the mean is half (Eq. 13)."""
    restored = torch.zeros(2, 3, 2, 2)
    restored[0] = 0.5
    assert losses.erasure_loss(restored, torch.zeros(2, 3, 2, 2)).item() == pytest.approx(3**0.5 / 2)


@pytest.mark.parametrize(("sigma", "expected"), [(1.0, 3**0.5), (2.0, 2.0)])
def test_perturbation_loss_is_free_below_sigma(sigma, expected):
    """The norm is sqrt 3: above sigma = 1 it counts, below sigma = 2 the loss is sigma (Eq. 8)."""
    protected = torch.full((1, 3, 2, 2), 0.5, requires_grad=True)
    loss = losses.perturbation_loss(protected, torch.zeros(1, 3, 2, 2), sigma)
    loss.backward()
    assert loss.item() == pytest.approx(expected)
    assert (protected.grad.abs().max() > 0) == (expected > sigma)


def test_every_faces_perturbation_has_its_own_bound():
    """Norms sqrt 3 and 0 at sigma = 1: (sqrt 3 + 1) / 2, not max(1, sqrt 3 / 2) (Eq. 8)."""
    protected = torch.zeros(2, 3, 2, 2)
    protected[0] = 0.5
    loss = losses.perturbation_loss(protected, torch.zeros(2, 3, 2, 2), 1.0)
    assert loss.item() == pytest.approx((3**0.5 + 1) / 2)


def test_norms_have_a_finite_gradient_at_zero():
    face = torch.zeros(1, 3, 2, 2, requires_grad=True)
    losses.erasure_loss(face, torch.zeros(1, 3, 2, 2)).backward()
    assert torch.isfinite(face.grad).all()


def test_impersonation_loss_is_one_minus_cosine():
    """cos((1,0),(1,0)) = 1 and cos((0,1),(1,0)) = 0: the mean of 0 and 1 (Eq. 9)."""
    embedding = torch.tensor([[1.0, 0], [0, 1]])
    assert losses.impersonation_loss(embedding, torch.tensor([1.0, 0])).item() == 0.5


def test_identity_loss_is_one_minus_the_mean_cosine():
    embedding = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    owner = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert losses.identity_loss(embedding, owner).item() == pytest.approx(1 - (1 + 0.8) / 2)


def test_release_loss_is_a_hinge():
    """Cosines to the target 0.6, 0 and -1 with margin -0.1: hinges 0.7, 0.1 and 0, mean 0.8 / 3."""
    embedding = torch.tensor([[0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])
    target = torch.tensor([1.0, 0.0])
    assert losses.release_loss(embedding, target, -0.1).item() == pytest.approx(0.8 / 3)


def test_owner_loss_is_a_hinge():
    """Cosines 1 and 0 with margin 0.2: hinges 0.8 and 0, mean 0.4."""
    embedding = torch.tensor([[1.0, 0], [0, 1]])
    owner = torch.tensor([[1.0, 0], [1, 0]])
    assert losses.owner_loss(embedding, owner, 0.2).item() == pytest.approx(0.4)


def test_surrogate_weights_start_equal():
    """All rates 1: softmax 1/3 each, w = exp(1/3) (Eq. 11)."""
    torch.testing.assert_close(
        losses.surrogate_weights(None, [1.0, 2, 3], 3), torch.full((3,), math.exp(1 / 3))
    )


def test_surrogate_weights_favour_the_one_that_falls_slowly():
    """Rates 0.5 and 1: softmax weighs e^0.5 against e^1, then exp."""
    share = math.exp(1.0) / (math.exp(0.5) + math.exp(1.0))
    expected = torch.tensor([math.exp(1 - share), math.exp(share)])
    torch.testing.assert_close(losses.surrogate_weights([0.4, 0.6], [0.8, 0.6], 2), expected)


def test_attack_loss_averages_and_stops_at_epsilon():
    """K = 2: ((1 + 3) + (2 + 4)) / 4 = 2.5 (Eq. 12); below epsilon it is epsilon."""
    primary, auxiliary = [torch.tensor(1.0), torch.tensor(3.0)], [torch.tensor(2.0), torch.tensor(4.0)]
    assert losses.adversarial_attack_loss(primary, auxiliary, 0.1).item() == 2.5
    assert losses.adversarial_attack_loss(primary, auxiliary, 5.0).item() == 5.0


@pytest.mark.parametrize(
    "loss",
    [
        lambda a, b: losses.reconstruction_loss(a, b),
        lambda a, b: losses.erasure_loss(a, b),
        lambda a, b: losses.perturbation_loss(a, b, 0.1),
        lambda a, b: losses.perturbation_loss(a, b, 0.1, 3.0),
        lambda a, b: losses.visibility_loss(a, b),
        lambda a, b: losses.impersonation_loss(a.flatten(1), b.flatten(1)[0]),
        lambda a, b: losses.owner_loss(a.flatten(1), b.flatten(1), -100.0),
        lambda a, b: losses.identity_loss(a.flatten(1), b.flatten(1)),
        lambda a, b: losses.release_loss(a.flatten(1), b.flatten(1)[0], -100.0),
        lambda a, b: losses.generator_loss(a.flatten(1)[:, :1]) + 0 * b.sum(),
        lambda a, b: losses.discriminator_loss(a.flatten(1)[:, :1], b.flatten(1)[:, :1]),
        lambda a, b: losses.attribute_loss(a.flatten(1), torch.sigmoid(b.flatten(1))),
    ],
)
def test_gradients_agree_with_finite_differences(loss):
    torch.manual_seed(0)
    a, b = (torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert gradcheck(loss, (a, b))


def test_perceptual_loss_is_free_below_its_bound():
    """Distances 0.1 and 0.3 at a bound of 0.2: (0.2 + 0.3) / 2; only the second has a gradient, 1/2."""
    distances = torch.tensor([0.1, 0.3], requires_grad=True)
    loss = losses.perceptual_loss(distances, 0.2)
    loss.backward()
    assert loss.item() == pytest.approx(0.25)
    assert distances.grad.tolist() == [0.0, 0.5]


def test_perturbation_loss_weighs_colour_more_than_grey():
    """Four pixels. Grey by 0.5: sqrt(4 * 3 * 0.25) = sqrt 3, colour weight or not. Red up and blue down by
    0.5 has no grey: sqrt(4 * 2 * 0.25) = sqrt 2 unweighted, three times that at a weight of 3."""
    zero = torch.zeros(1, 3, 2, 2)
    grey = zero + 0.5
    red = torch.tensor([0.5, 0.0, -0.5])[None, :, None, None].expand(1, 3, 2, 2)
    for weight in (1.0, 3.0):
        assert losses.perturbation_loss(grey, zero, 0.0, weight).item() == pytest.approx(3**0.5)
        assert losses.perturbation_loss(red, zero, 0.0, weight).item() == pytest.approx(weight * 2**0.5)


def test_visibility_pools_peaks_over_pixels():
    """Smooth grey, no masking. All 64 pixels 0.1 lighter: 0.1. One alone 0.8 lighter: 0.8 / 64^(1/4)."""
    smooth = torch.zeros(1, 3, 8, 8)
    assert losses.visibility_loss(smooth + 0.1, smooth).item() == pytest.approx(0.1, rel=1e-4)
    peak = smooth.clone()
    peak[:, :, 4, 4] = 0.8
    assert losses.visibility_loss(peak, smooth).item() == pytest.approx(0.8 / 64**0.25, rel=1e-4)


def test_contrast_masks_a_change_of_luminance():
    """Stripes of +-0.2, finer than the window: its standard deviation is 0.2, and a change shows half."""
    stripes = torch.tensor([0.2, -0.2]).repeat(32).expand(1, 3, 64, 64)
    assert losses.visibility_loss(stripes + 0.1, stripes).item() == pytest.approx(0.05, rel=0.02)


def test_a_change_of_colour_alone_is_no_change_of_luminance():
    face = torch.zeros(1, 3, 8, 8)
    red = torch.tensor([0.5, 0.0, -0.5])[None, :, None, None] + face
    assert losses.visibility_loss(red, face).item() == pytest.approx(0.0, abs=2e-3)
