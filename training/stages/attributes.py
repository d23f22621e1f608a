"""Stage 1 (Eq. 14): encoder, decoder and discriminator learn to edit attributes; no attack yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..batches import Batch
from ..config import StageConfig
from ..losses import attribute_loss, discriminator_loss, generator_loss, reconstruction_loss
from ..networks import Networks
from .base import Losses, Player


@dataclass(frozen=True)
class _Outputs:
    batch: Batch
    other: Tensor  # att_b
    reconstructed: Tensor
    edited: Tensor


class AttributeStage:
    """``150 L_rec + 10 L_att^G + 1 L_G`` against ``L_D + L_att^D``; ``E_adv`` and ``R`` are not touched."""

    name = "attributes"
    shares = 1

    def __init__(self, networks: Networks, config: StageConfig) -> None:
        self.networks = networks
        self.config = config
        generator = networks.generator
        self.players: tuple[Player, ...] = (
            Player("discriminator", (networks.discriminator,), self._discriminator_losses),
            Player("generator", (generator.encoder, generator.decoder), self._generator_losses),
        )

    def begin(self) -> None:
        """Starts from random weights."""

    def modes(self) -> None:
        self.networks.generator.train()
        self.networks.discriminator.train()

    def forward(self, batch: Batch, step: int) -> _Outputs:
        generator = self.networks.generator
        others = batch.all_attributes[torch.randperm(len(batch.all_attributes))]
        other = batch.draws.mine(others).to(batch.face.device)
        features = generator.encoder(batch.face)
        # Both decodings as one batch: half the overhead, and batch norm sees both.
        doubled = [torch.cat([feature, feature]) for feature in features]
        faces = generator.decoder(doubled, torch.cat([batch.attributes, other]))[-1]
        reconstructed, edited = faces.chunk(2)
        return _Outputs(batch, other, reconstructed, edited)

    def _discriminator_losses(self, outputs: _Outputs) -> Losses:
        n = len(outputs.batch)
        logits, attributes = self.networks.discriminator(
            torch.cat([outputs.batch.face, outputs.edited.detach()])
        )
        return {
            "discriminator": discriminator_loss(logits[:n].float(), logits[n:].float()),
            "attribute_real": attribute_loss(attributes[:n], outputs.batch.attributes),
        }

    def _generator_losses(self, outputs: _Outputs) -> Losses:
        logits, attributes = self.networks.discriminator(outputs.edited)
        return {
            "reconstruction": reconstruction_loss(outputs.reconstructed, outputs.batch.face),
            "attribute": attribute_loss(attributes, outputs.other),
            "generator": generator_loss(logits.float()),
        }

    def figures(self, outputs: _Outputs) -> dict[str, Tensor]:
        return {}

    def end_epoch(self) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to take back."""
