"""The noise pool (section IV-D): what platforms do to a published picture, differentiable.

A batch meets one member of the pool, drawn at random: nothing, JPEG, Gaussian noise, or resizing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .draws import Draws


@dataclass(frozen=True, kw_only=True)
class NoisePool:
    """Draws one distortion per batch.

    Attributes:
        jpeg_quality: bounds of the JPEG quality, drawn uniformly per picture (paper: 50, 50).
        gaussian_variance: of the additive noise, for pictures in [0, 1] (paper: 0.003).
        resize_factor: the picture is shrunk by it and enlarged again (paper: 1/4 of 256 px).
        clean_share: probability of no distortion; the others share the rest equally.
    """

    jpeg_quality: tuple[float, float] = (50.0, 50.0)
    gaussian_variance: float = 0.003
    resize_factor: float = 0.25
    clean_share: float = 0.25

    def __call__(self, face: Tensor, draws: Draws | None = None) -> Tensor:
        """Distorts ``(N, 3, S, S)`` in [-1, 1]; differentiable; draws from torch's global generator.

        Args:
            draws: for faces that are part of a batch.
        """
        if torch.rand(()) < self.clean_share:
            return face
        match int(torch.randint(3, ())):
            case 0:
                return self.jpeg(face, draws)
            case 1:
                return self.gaussian(face, draws)
            case _:
                return self.resize(face)

    def jpeg(self, face: Tensor, draws: Draws | None = None) -> Tensor:
        """JPEG with a differentiable rounding (kornia)."""
        from kornia.enhance import jpeg_codec_differentiable  # heavy, and only training needs it

        low, high = self.jpeg_quality
        draws = draws or Draws(len(face))
        quality = low + (high - low) * draws.uniform().to(face.device)
        unit = ((face.float() + 1) / 2).clamp(0, 1)
        return jpeg_codec_differentiable(unit, quality) * 2 - 1

    def gaussian(self, face: Tensor, draws: Draws | None = None) -> Tensor:
        """White noise of ``gaussian_variance``; the range [-1, 1] is twice [0, 1]."""
        noise = (draws or Draws(len(face))).normal_like(face)
        return (face + 2 * self.gaussian_variance**0.5 * noise).clamp(-1, 1)

    def resize(self, face: Tensor) -> Tensor:
        """Down by ``resize_factor`` and back, bilinear, antialiased."""
        size = face.shape[-1]
        small = functional.interpolate(
            face.float(), size=round(size * self.resize_factor), mode="bilinear", antialias=True
        )
        return functional.interpolate(small, size=size, mode="bilinear")
