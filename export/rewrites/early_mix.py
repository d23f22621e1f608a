"""The clean branch mixed in before the pixels of a sub-pixel convolution are put into place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.networks import Generator
from training.networks.generator import mix

from ..errors import ExportError
from .subpixel import SubpixelUp


class EarlyMix(nn.Module):
    """A generator that fuses the two decodings (section IV-C) where a convolution leaves them.

    Mixing treats each value by itself, so it may come before the values are moved. What is then moved is read
    by nothing but the next convolution, and can be moved in that one's eight bits.

    Args:
        generator: in evaluation mode, its decoder of ``SubpixelUp`` layers; its parts are used, not copied.

    Raises:
        ExportError: a layer of the decoder is something else.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        for layer in generator.decoder.layers:
            if not isinstance(layer, SubpixelUp):
                raise ExportError(f"expected a decoder after to_subpixel, found the layer {layer}")
        self.encoder = generator.encoder
        self.perturbation_encoder = generator.perturbation_encoder
        self.decoder = generator.decoder

    def forward(
        self, face: Tensor, attributes: Tensor, strength: Tensor | float, injection: Tensor | float
    ) -> Tensor:
        """See ``Generator.forward``."""
        decoder = self.decoder
        clean = self.encoder(face)
        mixed = mix(clean, self.perturbation_encoder(face), strength)
        own, h = (decoder.with_attributes(features[-1], attributes) for features in (clean, mixed))
        for level, layer in enumerate(decoder.layers):
            assert isinstance(layer, SubpixelUp)
            own, h = layer.values(own), layer.values(h)
            h = h + injection * (own - h)
            own, h = layer.placed(own), layer.placed(h)
            if level < decoder.shortcut_layers:
                own, h = (
                    torch.cat([x, features[-2 - level]], dim=1) for x, features in ((own, clean), (h, mixed))
                )
            if level < decoder.inject_layers:
                own, h = (decoder.with_attributes(x, attributes) for x in (own, h))
        return h
