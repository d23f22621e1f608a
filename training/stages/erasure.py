"""Stage 3 (Eq. 16): the restorer alone learns to erase, from distorted protected faces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..batches import Batch
from ..config import AttackConfig, SettingsError, StageConfig
from ..losses import erasure_loss, identity_loss
from ..noise_pool import NoisePool
from ..surrogates import Recognizer
from .base import Losses, Networks, Player
from .publish import Realignment, edited_attributes
from .surrogate_loss import shared_faces


@dataclass(frozen=True)
class _Outputs:
    source: Tensor
    restored: Tensor
    landmarks: Tensor  # of both


class ErasureStage:
    """``L_era`` trains ``R``, with an identity term where it has a weight; the generator is frozen.

    Args:
        surrogates: white-box recognisers that find the owner in a restored face; they share a batch, and
            only the loss ``identity`` asks them.
        realignment: how far the alignment of the published face strays, see ``Realignment``.

    Raises:
        SettingsError: the loss ``identity`` has a weight, and there are no surrogates, or more than faces.
    """

    name = "erasure"

    def __init__(
        self,
        networks: Networks,
        config: StageConfig,
        *,
        attack: AttackConfig,
        noise: NoisePool,
        publish: Callable[[Tensor, Tensor], Tensor],
        surrogates: Sequence[Recognizer] = (),
        realignment: float = 0.0,
    ) -> None:
        self.surrogates = list(surrogates) if "identity" in config.weights else []
        if "identity" in config.weights and not 0 < len(self.surrogates) <= config.batch:
            raise SettingsError(
                f"the loss identity has a weight; expected 1 to {config.batch} surrogates to share a batch, "
                f"found {len(self.surrogates)}"
            )
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

    @property
    def shares(self) -> int:
        return max(len(self.surrogates), 1)

    def forward(self, batch: Batch, step: int) -> _Outputs:
        edited = edited_attributes(batch.all_attributes, self.attack.edit_share)
        attributes = batch.draws.mine(edited).to(batch.face.device)
        with torch.no_grad():
            protected = self.networks.generator(
                batch.face, attributes, self.attack.strength, self.attack.injection
            )
            realignment = Realignment.draw(self.realignment, batch.draws)
            published, source = realignment.pictures(self.publish(batch.face, protected), batch.face)
            received = self.noise(published, batch.draws)
        restored = self.publish(received, self.networks.restorer(received))
        return _Outputs(source, restored, realignment.points(batch.landmarks, batch.face.shape[-1]))

    def _losses(self, outputs: _Outputs) -> Losses:
        losses = {"erasure": erasure_loss(outputs.restored, outputs.source)}
        if self.surrogates:
            losses["identity"] = self._identity_loss(outputs)
        return losses

    def _identity_loss(self, outputs: _Outputs) -> Tensor:
        """Mean over the surrogates, each of its own faces."""
        side = outputs.source.shape[-1]
        losses = []
        seen = shared_faces(len(outputs.source), len(self.surrogates))
        for surrogate, faces in zip(self.surrogates, seen, strict=True):
            grid = surrogate.sampling_grid(outputs.landmarks[faces], side).to(outputs.source.device)
            with torch.no_grad():
                owner = surrogate(outputs.source[faces], grid)
            losses.append(identity_loss(surrogate(outputs.restored[faces], grid), owner))
        return torch.stack(losses).mean()

    def figures(self, outputs: _Outputs) -> dict[str, Tensor]:
        return {}

    def end_epoch(self) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to take back."""
