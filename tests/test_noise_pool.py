"""The noise pool: strength, range, gradients."""

import pytest
import torch

from training.noise_pool import NoisePool


@pytest.mark.parametrize("member", ["jpeg", "gaussian", "resize"])
def test_members_change_the_picture_and_pass_gradients(member):
    torch.manual_seed(0)
    face = (torch.rand(2, 3, 32, 32) * 2 - 1).requires_grad_()
    distorted = getattr(NoisePool(), member)(face)
    assert distorted.shape == face.shape
    assert (distorted - face).abs().max() > 0.01
    assert distorted.abs().max() <= 1 + 1e-5
    distorted.square().sum().backward()
    assert torch.isfinite(face.grad).all()
    assert face.grad.abs().sum() > 0


def test_gaussian_variance_is_that_of_pictures_in_0_1():
    """Variance 0.003 on [0, 1] is 4 * 0.003 on [-1, 1]."""
    torch.manual_seed(0)
    noise = NoisePool(gaussian_variance=0.003).gaussian(torch.zeros(4, 3, 64, 64))
    assert noise.var().item() == pytest.approx(0.012, rel=0.05)


def test_jpeg_of_a_flat_picture_is_the_picture():
    flat = torch.full((1, 3, 16, 16), 0.2)
    assert (NoisePool().jpeg(flat) - flat).abs().max() < 0.03


def test_every_member_is_drawn():
    torch.manual_seed(0)
    face = torch.rand(1, 3, 16, 16) * 2 - 1
    results = [NoisePool(clean_share=0.25)(face) for _ in range(40)]
    unchanged = sum(torch.equal(result, face) for result in results)
    assert 2 <= unchanged <= 20
