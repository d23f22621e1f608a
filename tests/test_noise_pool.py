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


def test_jpeg_quality_is_drawn_between_its_bounds_for_every_picture(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "kornia.enhance.jpeg_codec_differentiable", lambda unit, quality: seen.append(quality) or unit
    )
    torch.manual_seed(0)
    faces = torch.zeros(200, 3, 2, 2)
    NoisePool(jpeg_quality=(30.0, 90.0)).jpeg(faces)
    NoisePool().jpeg(faces)
    drawn, fixed = seen
    assert 30 <= drawn.min() < 32
    assert 88 < drawn.max() <= 90
    assert (fixed == 50).all()


def test_resizing_loses_what_is_finer_than_its_factor():
    """Stripes two pixels wide repeat every four: half the size can still tell them, a quarter not."""
    stripes = torch.tensor([-1.0, -1.0, 1.0, 1.0]).repeat(8).expand(1, 3, 32, 32)
    inner = slice(8, 24)
    left = {
        factor: NoisePool(resize_factor=factor).resize(stripes)[..., inner, inner].abs().max().item()
        for factor in (0.5, 0.25)
    }
    assert left[0.5] > 0.2
    assert left[0.25] < 0.05


def test_members_share_what_the_clean_one_leaves(monkeypatch):
    """A quarter clean and three members: about 100 of 400 draws each (standard deviation 9)."""
    for index, member in enumerate(("jpeg", "gaussian", "resize"), 1):
        monkeypatch.setattr(NoisePool, member, lambda self, face, draws=None, index=index: face + index)
    torch.manual_seed(0)
    face = torch.zeros(1, 3, 2, 2)
    drawn = [int(NoisePool(clean_share=0.25)(face).max()) for _ in range(400)]
    assert all(70 < drawn.count(member) < 130 for member in range(4))
    assert all(NoisePool(clean_share=1.0)(face) is face for _ in range(20))
