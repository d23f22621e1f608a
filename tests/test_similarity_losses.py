"""Losses of the anonymiser: every expected value is worked out by hand in the docstring."""

import pytest
import torch
from torch.autograd import gradcheck

from training import losses

# SSIM's constants for pictures in [0, 1].
C1, C2 = 0.01**2, 0.03**2


def flat(value: float, count: int = 1) -> torch.Tensor:
    return torch.full((count, 3, 16, 16), value)


def test_ssim_of_equal_pictures_is_one():
    torch.manual_seed(0)
    picture = torch.rand(2, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(losses.ssim(picture, picture), torch.ones(2))


def test_ssim_of_flat_pictures_compares_their_means():
    """-1 and 1 are 0 and 1 in [0, 1]: (2 * 0 * 1 + C1) / (0 + 1 + C1); the variances give C2 / C2 = 1."""
    assert losses.ssim(flat(-1.0), flat(1.0)).item() == pytest.approx(C1 / (1 + C1), rel=1e-3)


def test_ssim_counts_where_the_weight_is():
    """Equal on the left and black against white on the right, far from the seam: 1 and about 0."""
    source, picture = flat(-1.0), flat(-1.0)
    picture[..., 8:] = 1.0
    left, right = torch.zeros(16, 16), torch.zeros(16, 16)
    left[:, 0], right[:, -1] = 1.0, 2.0
    assert losses.ssim(picture, source, left).item() == pytest.approx(1.0, abs=1e-3)
    assert losses.ssim(picture, source, right).item() == pytest.approx(0.0, abs=1e-3)
    assert losses.ssim(picture, source, left + right / 2).item() == pytest.approx(0.5, abs=1e-3)


def test_structure_loss_is_what_is_missing_to_one():
    """One pair equal, SSIM 1, the other black against white, about 0: 1 - 1/2."""
    picture = torch.cat([flat(-1.0), flat(1.0)])
    assert losses.structure_loss(picture, flat(-1.0, 2)).item() == pytest.approx(0.5, abs=1e-3)


def test_similarity_loss_is_free_below_its_bound():
    """SSIM 1 and about 0 with the bound 0.2: (0.8 + 0) / 2; nothing is left above the bound 1."""
    picture, source = torch.cat([flat(-1.0), flat(1.0)]), flat(-1.0, 2)
    assert losses.similarity_loss(picture, source, 0.2).item() == pytest.approx(0.4, abs=1e-3)
    assert losses.similarity_loss(picture, source, 1.0).item() == pytest.approx(0.0, abs=1e-6)


def test_tone_loss_is_the_rms_of_cells_above_its_bound():
    """0.5 everywhere: RMS 0.5, less the bound 0.2; the other picture has its tone: half of 0.3."""
    picture = torch.cat([flat(0.5), flat(0.0)])
    assert losses.tone_loss(picture, flat(0.0, 2), 0.2).item() == pytest.approx(0.15)


def test_tone_loss_does_not_see_fine_detail():
    """A checkerboard of +-0.5 has the mean 0 in every cell of 2 x 2 pixels."""
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2 - 0.5
    assert losses.tone_loss(board.expand(1, 3, 16, 16), flat(0.0), 0.0).item() == pytest.approx(0, abs=1e-5)


def test_tone_losss_gradient_at_zero_is_finite():
    picture = flat(0.0).requires_grad_()
    losses.tone_loss(picture, flat(0.0), 0.0).backward()
    assert picture.grad.isfinite().all()


def test_stranger_loss_asks_the_owner_to_be_ahead_of_the_others():
    """Owners e1, e2, e3. The first face is e1: owner 1, others 0, so 1 ahead: max(0, 1.2 - 1) twice.

    The second is e1, too: owner 0, e1 ahead by 1, e3 equal: 1.2 + 1 and 1.2. The third is e3: as the first.
    """
    owners = torch.eye(3)
    embedding = owners[[0, 0, 2]]
    expected = (2 * 0.2 + 2.2 + 1.2 + 2 * 0.2) / 6
    assert losses.stranger_loss(embedding, owners, 1.2).item() == pytest.approx(expected)
    assert losses.stranger_loss(owners, owners, 1.0).item() == 0


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    picture, source = torch.rand(2, 2, 3, 12, 12, dtype=torch.float64) * 2 - 1
    picture.requires_grad_()
    weight = torch.rand(12, 12, dtype=torch.float64)
    fast = {"fast_mode": True}
    assert gradcheck(lambda p: losses.structure_loss(p, source, weight), (picture,), **fast)
    assert gradcheck(lambda p: losses.similarity_loss(p, source, -0.9, weight), (picture,), **fast)
    assert gradcheck(lambda p: losses.tone_loss(p, source, 0.01), (picture,), **fast)
    unit = torch.nn.functional.normalize(torch.randn(3, 4, dtype=torch.float64), dim=1)
    owners = torch.nn.functional.normalize(torch.randn(3, 4, dtype=torch.float64), dim=1)
    assert gradcheck(lambda e: losses.stranger_loss(e, owners, 0.3), (unit.requires_grad_(),))
