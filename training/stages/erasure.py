"""Stage 3 (Eq. 16): the restorer alone learns to erase, from distorted protected faces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..batches import Batch
from ..config import AttackConfig, StageConfig
from ..losses import erasure_loss
from ..noise_pool import NoisePool
from .base import Losses, Networks, Player
from .publish import edited_attributes, realigned


@dataclass(frozen=True)
class _Outputs:
    source: Tensor
    restored: Tensor


class ErasureStage:
    """``L_era`` trains ``R``; the generator is frozen.

    Args:
        realignment: how far the alignment of the published face strays, see ``realigned``.
    """

    name = "erasure"
    shares = 1

    def __init__(
        self,
        networks: Networks,
        config: StageConfig,
        *,
        attack: AttackConfig,
        noise: NoisePool,
        publish: Callable[[Tensor, Tensor], Tensor],
        realignment: float = 0.0,
    ) -> None:
        self.networks = networks
        self.config = config
        self.attack = attack
        self.noise = noise
        self.publish = publish
        self.realignment = realignment
        self.players: tuple[Player, ...] = (Player("restorer", (networks.restorer,), self._losses),)

    def begin(self) -> None:
        """Goes on with stage 2's restorer."""

    def modes(self) -> None:
        self.networks.generator.eval()
        self.networks.restorer.eval()  # frozen batch statistics, as in stage 2

    def forward(self, batch: Batch, step: int) -> _Outputs:
        edited = edited_attributes(batch.all_attributes, self.attack.edit_share)
        attributes = batch.draws.mine(edited).to(batch.face.device)
        with torch.no_grad():
            protected = self.networks.generator(
                batch.face, attributes, self.attack.strength, self.attack.injection
            )
            published, source = realigned(
                self.publish(batch.face, protected), batch.face, self.realignment, batch.draws
            )
            received = self.noise(published, batch.draws)
        return _Outputs(source, self.publish(received, self.networks.restorer(received)))

    def _losses(self, outputs: _Outputs) -> Losses:
        return {"erasure": erasure_loss(outputs.restored, outputs.source)}

    def figures(self, outputs: _Outputs) -> dict[str, Tensor]:
        return {}

    def end_epoch(self) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to take back."""
