"""Stage 3 (Eq. 16): the restorer alone learns to erase, from distorted protected faces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..batches import Batch
from ..config import AttackConfig, SettingsError, StageConfig
from ..losses import erasure_loss, identity_loss, release_loss
from ..networks import Networks
from ..noise_pool import NoisePool
from ..surrogates import Recognizer
from .base import Losses, Player
from .publish import Realignment, edited_attributes
from .surrogate_loss import shared_faces

# The losses that ask recognisers.
IDENTITY, RELEASE = "identity", "release"


@dataclass(frozen=True)
class _Outputs:
    source: Tensor
    restored: Tensor
    landmarks: Tensor  # of both


class ErasureStage:
    """``L_era`` trains ``R``, with what recognisers say where that has a weight; the generator is frozen.

    Args:
        surrogates: white-box recognisers that look for the owner (the loss ``identity``) and for the target
            (``release``) in a restored face; they share a batch.
        targets: ``(d_i,)`` unit-norm embedding of the target by each surrogate.
        release_margin: see ``release_loss``.
        realignment: how far the alignment of the published face strays, see ``Realignment``.

    Raises:
        SettingsError: a loss that asks recognisers has a weight, and there are none, or more than faces.
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
        targets: Sequence[Tensor] = (),
        release_margin: float = 0.0,
        realignment: float = 0.0,
    ) -> None:
        asked = [loss for loss in (IDENTITY, RELEASE) if loss in config.weights]
        self.surrogates = list(surrogates) if asked else []
        if asked and not 0 < len(self.surrogates) <= config.batch:
            raise SettingsError(
                f"losses with a weight ask surrogates ({', '.join(asked)}); expected 1 to {config.batch} "
                f"surrogates to share a batch, found {len(self.surrogates)}"
            )
        self.targets = list(targets)
        self.release_margin = release_margin
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
        return losses | self._recognizers_losses(outputs) if self.surrogates else losses

    def _recognizers_losses(self, outputs: _Outputs) -> Losses:
        """Means over the surrogates, each of its own faces, of the losses that have a weight."""
        side = outputs.source.shape[-1]
        found: dict[str, list[Tensor]] = {}
        seen = shared_faces(len(outputs.source), len(self.surrogates))
        for surrogate, target, faces in zip(self.surrogates, self.targets, seen, strict=True):
            grid = surrogate.sampling_grid(outputs.landmarks[faces], side).to(outputs.source.device)
            with torch.no_grad():
                owner = surrogate(outputs.source[faces], grid)
            restored = surrogate(outputs.restored[faces], grid)
            if IDENTITY in self.config.weights:
                found.setdefault(IDENTITY, []).append(identity_loss(restored, owner))
            if RELEASE in self.config.weights:
                found.setdefault(RELEASE, []).append(release_loss(restored, target, self.release_margin))
        return {name: torch.stack(values).mean() for name, values in found.items()}

    def figures(self, outputs: _Outputs) -> dict[str, Tensor]:
        return {}

    def end_epoch(self) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to take back."""
