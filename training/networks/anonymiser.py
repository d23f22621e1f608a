"""The anonymiser A: a front-end that forgets, and a painter that sees nothing else of the face."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import Decoder, Encoder
from .front_end import FrontEnd

# Of the tones that the noise asks for: farther out a face would lose its own light and dark.
TONE_RANGE = 0.6


class Noise(NamedTuple):
    """Fresh noise of mean 0 and variance 1, for one use, never stored.

    Attributes:
        grain: ``(N, 1, S, S)``, injected into what is left of the face.
        shade: ``(N, 3, C, C)``, which becomes the new colours and light.
    """

    grain: Tensor
    shade: Tensor

    @classmethod
    def draw(cls, normal: Callable[..., Tensor], *, image_size: int, cells: int) -> Noise:
        """By a function of the shape of one face's noise, such as ``Draws.normal``."""
        return cls(normal(1, image_size, image_size), normal(3, cells, cells))

    def to(self, device: torch.device) -> Noise:
        """The same noise there."""
        return Noise(self.grain.to(device), self.shade.to(device))


class Anonymiser(nn.Module):
    """``A(x, r)``: paints a new face from what the front-end leaves of one, and from noise.

    Args:
        front_end: see ``FrontEnd``.
        width: channels of the painter's first layer.
        depth: layers of its encoder and decoder; the side of the face must be a multiple of ``2**depth``.
        shortcut_layers: encoder features handed to the decoder, < depth.
        stochastic: False takes all noise for zero: the ablation.
    """

    def __init__(
        self, front_end: FrontEnd, *, width: int, depth: int, shortcut_layers: int, stochastic: bool = True
    ) -> None:
        super().__init__()
        self.front_end = front_end
        self.encoder = Encoder(width=width, depth=depth, channels_in=1 + 3)
        self.decoder = Decoder(
            width=width, depth=depth, n_attributes=0, shortcut_layers=shortcut_layers, inject_layers=0
        )
        self.share = 1.0 if stochastic else 0.0

    def left(self, face: Tensor, grain: Tensor, strength: Tensor | float) -> Tensor:
        """What the front-end leaves of faces, ``(N, 1, S, S)``; arguments as of ``forward``."""
        return self.front_end(face, self.share * grain, strength)

    def tone(self, shade: Tensor, side_px: int) -> Tensor:
        """Colours and light that the noise asks for, ``(N, 3, side_px, side_px)`` in +-TONE_RANGE."""
        tone = TONE_RANGE * torch.tanh(self.share * shade)
        return functional.interpolate(tone, size=(side_px, side_px), mode="bilinear", align_corners=False)

    def paint(self, left: Tensor, tone: Tensor) -> Tensor:
        """The new face, ``(N, 3, S, S)`` in [-1, 1], from ``left`` and ``tone``."""
        return self.decoder(self.encoder(torch.cat([left, tone], dim=1)), None)[-1]

    def forward(self, face: Tensor, grain: Tensor, shade: Tensor, strength: Tensor | float = 1.0) -> Tensor:
        """Anonymises faces.

        Args:
            face: ``(N, 3, S, S)`` in [-1, 1], float32.
            grain, shade: see ``Noise``.
            strength: of the grain, a number or ``(N, 1, 1, 1)``, in [0, 1].

        Returns:
            ``(N, 3, S, S)`` in [-1, 1].
        """
        return self.paint(self.left(face, grain, strength), self.tone(shade, face.shape[-1]))
