"""What the anonymiser's front-end forgets, by changing only that; the painter sees nothing else."""

import math

import pytest
import torch

from training.networks import Anonymiser, FrontEnd, Noise
from training.networks.anonymiser import TONE_RANGE
from training.networks.front_end import SHARPNESS, gaussian_taps

SIDE = 64
SETTINGS = {"image_size": SIDE, "sigma": 0.025, "window": 0.05, "floor": 0.02, "levels": 5, "grain": 1.0}


@pytest.fixture
def face():
    torch.manual_seed(0)
    return torch.rand(2, 3, SIDE, SIDE) - 0.5


def normal(count=2, seed=0):
    random = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(count, *shape, generator=random)


def light(direction: float) -> torch.Tensor:
    """A field of light that grows by 0.4 over the face, with a broad bump in it."""
    along = torch.linspace(-0.2, 0.2, SIDE)
    return direction * along + 0.2 * torch.exp(-((along[:, None] / 0.15) ** 2))


def inner(picture: torch.Tensor) -> torch.Tensor:
    """Away from the border, where a field that is reflected has a kink."""
    return picture[..., 8:-8, 8:-8]


def test_a_constant_and_a_field_of_light_are_forgotten(face):
    front_end = FrontEnd(**SETTINGS)
    contrast = front_end.local_contrast(face)
    assert contrast.abs().mean() > 0.5
    torch.testing.assert_close(front_end.local_contrast(face + 0.3), contrast, rtol=0, atol=1e-4)
    lit = front_end.local_contrast(face + light(1.0))
    assert inner(lit - contrast).abs().max() < 0.01 * contrast.abs().max()


def test_a_colour_of_equal_luminance_is_forgotten(face):
    """0.299 r + 0.587 g + 0.114 b = 0 for the colour (0.114, 0, -0.299)."""
    front_end = FrontEnd(**SETTINGS)
    colour = torch.tensor([0.114, 0.0, -0.299]).view(1, 3, 1, 1) * torch.rand(2, 1, SIDE, SIDE)
    torch.testing.assert_close(
        front_end.local_contrast(face + colour), front_end.local_contrast(face), rtol=0, atol=1e-4
    )


def test_contrast_is_forgotten_but_for_the_floor(face):
    front_end = FrontEnd(**{**SETTINGS, "floor": 1e-4})
    contrast = front_end.local_contrast(face)
    torch.testing.assert_close(front_end.local_contrast(face / 4), contrast, rtol=0, atol=1e-3)
    flat = FrontEnd(**SETTINGS).local_contrast(face / 1000)
    assert flat.abs().max() < 0.1  # not amplified


@pytest.mark.parametrize(
    ("value", "level"),
    [(-9.0, -1.0), (-1.0, -0.5), (-0.3, 0.0), (0.0, 0.0), (0.3, 0.0), (1.0, 0.5), (9.0, 1.0)],
)
def test_the_staircase_has_five_levels(value, level):
    """Steps at -1.5, -0.5, 0.5 and 1.5; 0.2 beside one, tanh(2.4) is 0.984: 0.004 from the level."""
    found = FrontEnd(**SETTINGS).staircase(torch.tensor([value]))
    assert found.item() == pytest.approx(level, abs=0.005)


def test_between_two_steps_the_staircase_is_flat():
    """Slope SHARPNESS / 4 (1 - tanh^2(SHARPNESS / 2)) of two steps; 0.5 a unit is the mean slope."""
    middle = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    FrontEnd(**SETTINGS).staircase(middle).backward()
    expected = 2 * SHARPNESS / 4 * (1 - math.tanh(SHARPNESS / 2) ** 2)
    assert middle.grad.item() == pytest.approx(expected, rel=1e-3)
    assert middle.grad.item() < 0.0005 * 0.5


def test_strength_scales_the_grain(face):
    front_end = FrontEnd(**SETTINGS)
    grain = normal()(1, SIDE, SIDE)
    silent = front_end(face, grain, 0.0)
    torch.testing.assert_close(silent, front_end(face, 0 * grain, 1.0))
    changed = [((front_end(face, grain, s) - silent).abs() > 0.1).float().mean().item() for s in (0.3, 1.0)]
    assert 0.1 < changed[0] < changed[1]
    each = front_end(face, grain, torch.tensor([0.0, 1.0]).view(2, 1, 1, 1))
    torch.testing.assert_close(each, torch.cat([silent[:1], front_end(face, grain, 1.0)[1:]]))


def test_taps_sum_to_one_and_are_a_gaussians():
    taps = gaussian_taps(2.0)
    assert len(taps) == 13
    assert taps.sum().item() == pytest.approx(1)
    assert (taps[4] / taps[6]).item() == pytest.approx(math.exp(-0.5), rel=1e-5)  # 2 px are one sigma


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": 4}, "expected an odd number of levels from 3, found 4"),
        ({"sigma": 0.5}, "expected a sigma well below the side of the face, found 0.5 of it"),
    ],
)
def test_what_makes_no_front_end_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        FrontEnd(**{**SETTINGS, **change})


# The whole anonymiser.


def anonymiser(stochastic=True) -> Anonymiser:
    torch.manual_seed(1)
    network = Anonymiser(
        FrontEnd(**SETTINGS), width=4, depth=3, shortcut_layers=2, stochastic=stochastic
    ).eval()
    return network.requires_grad_(False)


def test_what_the_front_end_forgets_does_not_reach_the_anonymised_face(face):
    """Not the colour, not the brightness; what is left of a field of light moves it by less than a level."""
    network, noise = anonymiser(), Noise.draw(normal(), image_size=SIDE, cells=4)
    plain = network(face, *noise)
    assert plain.shape == face.shape
    assert plain.abs().max() <= 1
    colour = torch.tensor([0.114, 0.0, -0.299]).view(1, 3, 1, 1)
    torch.testing.assert_close(network(face + colour + 0.2, *noise), plain, rtol=0, atol=1e-3)
    different = network(face.flip(0), *noise)
    assert (different - plain).abs().max() > 0.05  # while another face does
    moved = inner(network(face + light(1.0), *noise) - plain).abs()
    assert moved.mean() < 0.05 * inner(different - plain).abs().mean()


def test_the_gradient_of_the_anonymised_face_does_not_see_colour_or_brightness(face):
    """d A / d x has no part along a constant, nor along a colour of equal luminance."""
    network, noise = anonymiser(), Noise.draw(normal(), image_size=SIDE, cells=4)
    source = face.clone().requires_grad_()
    (network(source, *noise) * face.flip(0)).sum().backward()
    gradient = source.grad
    scale = gradient.abs().sum()
    assert scale > 0
    assert gradient.sum().abs() < 1e-4 * scale
    assert (0.114 * gradient[:, 0] - 0.299 * gradient[:, 2]).abs().sum() < 1e-4 * scale


def test_each_noise_changes_the_face_and_none_is_kept(face):
    network, noise = anonymiser(), Noise.draw(normal(), image_size=SIDE, cells=4)
    other = Noise.draw(normal(seed=1), image_size=SIDE, cells=4)
    plain = network(face, *noise)
    torch.testing.assert_close(network(face, *noise), plain, rtol=0, atol=0)
    for changed in (Noise(other.grain, noise.shade), Noise(noise.grain, other.shade)):
        assert not torch.allclose(network(face, *changed), plain)
    tone = network.tone(noise.shade, SIDE)
    assert tone.shape == face.shape
    assert tone.abs().max() <= TONE_RANGE
    silent = anonymiser(stochastic=False)
    torch.testing.assert_close(silent(face, *noise), silent(face, *other), rtol=0, atol=0)
