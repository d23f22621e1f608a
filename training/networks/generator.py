"""The generator G: encoder, perturbation encoder, decoder with clean-domain injection (Eqs. 6-7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .blocks import ContextEncoder, Decoder, Encoder


class CleanBranch(NamedTuple):
    """What the clean branch computes: it does not depend on the perturbation encoder."""

    features: list[Tensor]  # G_enc(x)
    layers: list[Tensor]  # output of every decoder layer

    @property
    def face(self) -> Tensor:
        """``x_cov^{att_b} = G_dec(G_enc(x), att_b)``, the attribute-edited face without perturbation."""
        return self.layers[-1]


def mix(features: Sequence[Tensor], perturbed: Sequence[Tensor], strength: Tensor | float) -> list[Tensor]:
    """Eq. 6: ``fs_i = beta * ft_i + (1 - beta) * perb_i`` with ``strength = 1 - beta``."""
    return [ft + strength * (perb - ft) for ft, perb in zip(features, perturbed, strict=True)]


class Generator(nn.Module):
    """Protects faces: edits their attributes and mixes a perturbation into the features.

    Args:
        width: channels of the first encoder layer (AttGAN: 64).
        depth: encoder layers (AttGAN: 5).
        n_attributes: length of the attribute vector.
        shortcut_layers: encoder features handed to the decoder (AttGAN: 1).
        inject_layers: decoder layers after the first that see the attributes again (AttGAN: 1).
        perturbation_context: give ``E_adv`` a way back up, see ``ContextEncoder``; the paper has none.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        n_attributes: int,
        shortcut_layers: int = 1,
        inject_layers: int = 1,
        perturbation_context: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(width=width, depth=depth)
        self.perturbation_encoder = (
            ContextEncoder(width=width, depth=depth, levels=shortcut_layers)
            if perturbation_context
            else Encoder(width=width, depth=depth)
        )
        self.decoder = Decoder(
            width=width,
            depth=depth,
            n_attributes=n_attributes,
            shortcut_layers=shortcut_layers,
            inject_layers=inject_layers,
        )
        self.start_perturbation_from_encoder()

    def start_perturbation_from_encoder(self) -> None:
        """Initialises ``E_adv`` from ``G_enc``, so that stage 2 starts from no perturbation at all."""
        self.perturbation_encoder.start_from(self.encoder)

    def clean(self, face: Tensor, attributes: Tensor) -> CleanBranch:
        """The clean branch: ``z_clean = G_enc(x)`` and its decoding.

        Args:
            face: ``(N, 3, S, S)`` in [-1, 1].
            attributes: ``(N, n_attributes)`` in [0, 1], those of the edited face.
        """
        features = self.encoder(face)
        return CleanBranch(features, self.decoder(features, attributes))

    def perturb(
        self,
        perturbed: Sequence[Tensor],
        clean: CleanBranch,
        attributes: Tensor,
        *,
        strength: Tensor | float,
        injection: Tensor | float,
    ) -> Tensor:
        """Eqs. 6-7 from the perturbation features and a clean branch that is already there.

        Args:
            perturbed: ``E_adv(x)``.
            clean: ``clean(x, attributes)``.
            strength: ``1 - beta``, a number or ``(N, 1, 1, 1)``, in [0, 1].
            injection: gamma, likewise.

        Returns:
            ``x_adv``, ``(N, 3, S, S)`` in [-1, 1].
        """
        z_adv = mix(clean.features, perturbed, strength)
        return self.decoder(z_adv, attributes, clean=clean.layers, injection=injection)[-1]

    def forward(
        self,
        face: Tensor,
        attributes: Tensor,
        strength: Tensor | float = 0.5,
        injection: Tensor | float = 0.0,
    ) -> Tensor:
        """``x_adv = G(x_cov, att_b)``: the protected face, ``(N, 3, S, S)`` in [-1, 1]."""
        clean = self.clean(face, attributes)
        return self.perturb(
            self.perturbation_encoder(face), clean, attributes, strength=strength, injection=injection
        )

    @torch.no_grad()
    def edit(self, face: Tensor, attributes: Tensor) -> Tensor:
        """``x_cov^{att_b}`` alone, without gradient."""
        return self.clean(face, attributes).face
