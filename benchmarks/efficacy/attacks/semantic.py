"""SemanticAdv: somewhere between the features of a face and those of its attribute-edited picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.networks.blocks import Decoder

from .base import Attack
from .stage_one import StageOne
from .surrogates import Surrogates

# The attributes that both its paper edits and CelebA's AttGAN list has.
EDITS = (
    *("Blond_Hair", "Young", "Eyeglasses", "Mouth_Slightly_Open"),
    *("Bushy_Eyebrows", "Bangs", "Pale_Skin"),
)


@dataclass(frozen=True, kw_only=True)
class SemanticAdv(Attack):
    """Qiu et al., "SemanticAdv: Generating Adversarial Examples via Attribute-conditioned Image
    Editing", ECCV 2020.

    One weight for every number of a feature map mixes the map of the face's own attributes with that of an
    edited attribute; the weights are optimised against the recognisers, with their total variation kept low.
    First the input is optimised until the generator reproduces the face, as the paper does.

    Args:
        surrogates: attacked.
        stage_one: the attribute editor.
        steps: of Adam on the weights.
        learning_rate: of the weights.
        lowest: least share of the edited map, 0 in the paper, 0.6 in its code; 1 is the highest.
        start: share to start with.
        variation: weight of the total variation.
        inversion_steps: of Adam on the input, for reproduction.
        inversion_rate: its learning rate, of faces in [0, 1].
    """

    surrogates: Surrogates
    stage_one: StageOne
    steps: int = 60
    learning_rate: float = 0.05
    lowest: float = 0.0
    start: float = 0.8
    variation: float = 0.01
    inversion_steps: int = 60
    inversion_rate: float = 0.005

    def perturb(self, faces: Tensor) -> Tensor:
        """See ``Attack.perturb``."""
        own = self.stage_one.attributes_of(faces)
        edited = self.nearest_edit(faces, own)
        generator = self.stage_one.generator
        level = generator.decoder.inject_layers  # no later layer reads attributes
        source = self.reproducing(faces, own)
        with torch.no_grad():
            features = generator.encoder(2 * source - 1)
            first = generator.decoder(features, own)[level]
            second = generator.decoder(features, edited)[level]
        share = torch.full_like(first, self.start, requires_grad=True)
        optimizer = torch.optim.Adam([share], lr=self.learning_rate)

        def mixed() -> Tensor:
            mix = first + share * (second - first)
            return (decoded_from(generator.decoder, mix, features, level) + 1) / 2

        for _ in range(self.steps):
            loss = 1 - self.surrogates(mixed()) + self.variation * total_variation(share)
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            with torch.no_grad():
                share.clamp_(self.lowest, 1.0)
        with torch.no_grad():
            return mixed().clamp(0, 1)

    @torch.no_grad()
    def nearest_edit(self, faces: Tensor, own: Tensor) -> Tensor:
        """Attribute vectors ``(N, n)``: of ``EDITS``, the one that brings each face nearest to the target."""
        candidates = [
            self.stage_one.flipped(own, name) for name in EDITS if name in self.stage_one.attributes
        ]
        cosines = torch.stack([self.surrogates(self.stage_one.edit(faces, edit)) for edit in candidates])
        return torch.stack(candidates)[cosines.argmax(0), torch.arange(len(faces))]

    def reproducing(self, faces: Tensor, own: Tensor) -> Tensor:
        """Inputs near the faces, from which the generator gives the faces back more truly."""
        source = faces.clone().requires_grad_()
        optimizer = torch.optim.Adam([source], lr=self.inversion_rate)
        for _ in range(self.inversion_steps):
            picture = self.stage_one.edit(source, own)
            difference = (picture - faces).square() + (source - faces).square()
            optimizer.zero_grad()
            difference.mean((1, 2, 3)).sum().backward()
            optimizer.step()
        return source.detach().clamp(0, 1)


def decoded_from(decoder: Decoder, h: Tensor, features: Sequence[Tensor], level: int) -> Tensor:
    """The decoder's picture, ``(N, 3, S, S)`` in [-1, 1], from the output of one of its layers on.

    Args:
        h: that output.
        features: the encoder's.
        level: the layer; from ``decoder.inject_layers`` on, for no attributes are given.
    """
    for before, layer in enumerate(decoder.layers[level + 1 :], level):
        if before < decoder.shortcut_layers:
            h = torch.cat([h, features[-2 - before]], dim=1)
        h = layer(h)
    return h


def total_variation(maps: Tensor) -> Tensor:
    """Mean square difference of neighbours along both axes, of each face: ``(N,)``, >= 0."""
    down, right = maps.diff(dim=2), maps.diff(dim=3)
    return down.square().mean((1, 2, 3)) + right.square().mean((1, 2, 3))
