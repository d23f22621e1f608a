"""What the anonymiser forgets of a face before anything is learned: colour, light, contrast, fine steps."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional

# ITU-R BT.601's shares of red, green and blue in luminance.
LUMINANCE = (0.299, 0.587, 0.114)
# Half the width of a Gaussian's taps, in standard deviations.
REACH = 3.0
# Of the steps: midway between two, tanh(12 / 2) is 1 - 1.2e-5; a quarter of the way from one to the next is
# ramp, more than a twentieth of a level off any.
SHARPNESS = 12.0


class FrontEnd(nn.Module):
    """Luminance, local contrast normalisation, noise and a staircase. No parameters, and many-to-one.

    ``v = h / sqrt(G_w * h^2 + floor^2)`` with ``h = Y - G_s * Y``, then
    ``sum_k tanh(SHARPNESS (v + strength grain n - t_k)) / (levels - 1)`` with steps ``t_k`` a unit apart
    around 0. A constant added to the face changes nothing, nor does any change of colour at equal
    luminance; a smooth field of light changes next to nothing.

    Args:
        image_size: side of the face in pixels.
        sigma: of ``G_s``, as a share of the side; what is coarser is gone.
        window: standard deviation of ``G_w``, as a share of the side: where contrast is measured.
        floor: local contrast below which nothing is amplified; the face has a range of 2.
        levels: of the staircase, odd: noise of an even area then stays on the level 0.
        grain: standard deviation of the noise at full strength, in local standard deviations.

    Raises:
        ValueError: ``levels`` is not odd, or a Gaussian is wider than the face.
    """

    fine: Tensor
    wide: Tensor

    def __init__(
        self, *, image_size: int, sigma: float, window: float, floor: float, levels: int, grain: float
    ) -> None:
        super().__init__()
        if levels < 3 or levels % 2 == 0:
            raise ValueError(f"expected an odd number of levels from 3, found {levels}")
        for name, share in (("sigma", sigma), ("window", window)):
            taps = gaussian_taps(share * image_size)
            if len(taps) // 2 >= image_size:
                raise ValueError(f"expected a {name} well below the side of the face, found {share} of it")
            self.register_buffer("fine" if name == "sigma" else "wide", taps, persistent=False)
        self.floor = floor
        self.grain = grain
        self.steps = [step - (levels - 2) / 2 for step in range(levels - 1)]

    def forward(self, face: Tensor, grain: Tensor, strength: Tensor | float) -> Tensor:
        """What is left of faces.

        Args:
            face: ``(N, 3, S, S)`` in [-1, 1]; float32, for half precision would move the steps.
            grain: ``(N, 1, S, S)`` of mean 0 and variance 1.
            strength: of the noise, a number or ``(N, 1, 1, 1)``, in [0, 1].

        Returns:
            ``(N, 1, S, S)`` in [-1, 1]: most near one of the levels, a quarter on the ramps between.
        """
        contrast = self.local_contrast(face)
        return self.staircase(contrast + strength * self.grain * grain)

    def local_contrast(self, face: Tensor) -> Tensor:
        """``v``: high-passed luminance over its local standard deviation, ``(N, 1, S, S)``."""
        red, green, blue = face.split(1, dim=1)
        luminance = LUMINANCE[0] * red + LUMINANCE[1] * green + LUMINANCE[2] * blue
        detail = luminance - _blurred(luminance, self.fine)
        return detail / torch.sqrt(_blurred(detail * detail, self.wide) + self.floor**2)

    def staircase(self, value: Tensor) -> Tensor:
        """The value on few levels from -1 to 1."""
        rises = [torch.tanh(SHARPNESS * (value - step)) for step in self.steps]
        return torch.stack(rises).sum(0) / len(rises)


def gaussian_taps(sigma_px: float) -> Tensor:
    """A Gaussian's taps, ``(2 * ceil(REACH * sigma_px) + 1,)`` float32, of sum 1."""
    reach = ceil(REACH * sigma_px)
    distance = torch.arange(-reach, reach + 1, dtype=torch.float64)
    taps = torch.exp(-0.5 * (distance / sigma_px) ** 2)
    return (taps / taps.sum()).float()


def _blurred(plane: Tensor, taps: Tensor) -> Tensor:
    """A plane ``(N, 1, H, W)`` convolved along both axes, reflected at its border."""
    reach = len(taps) // 2
    padded = functional.pad(plane, (reach, reach, reach, reach), mode="reflect")
    return functional.conv2d(functional.conv2d(padded, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1))
