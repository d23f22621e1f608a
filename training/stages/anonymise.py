"""The anonymiser's stage: A paints faces that recognisers know, Q tries to undo it and A to prevent that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..anonymiser_config import AnonymiserNetworkConfig, AnonymiserSettings
from ..batches import Batch
from ..draws import Draws
from ..losses import (
    identity_loss,
    reconstruction_loss,
    similarity_loss,
    ssim,
    stranger_loss,
    structure_loss,
    tone_loss,
)
from ..networks import AnonymiserNetworks, Noise
from ..noise_pool import NoisePool
from ..shared_config import SettingsError, StageConfig
from ..surrogates import Recognizer
from .base import Losses, Player
from .surrogate_loss import shared_faces


@dataclass(frozen=True)
class _Release:
    """One anonymisation of a batch: the tones it was to have, as it was published and as it is received."""

    tone: Tensor
    published: Tensor
    received: Tensor


@dataclass(frozen=True)
class _Seen:
    """Unit-norm embeddings ``(n, d)`` of one surrogate's faces: clean, and of both releases."""

    owner: Tensor
    releases: tuple[Tensor, Tensor]

    def cosines(self) -> dict[str, Tensor]:
        """Mean cosine to the owner, of both releases, and between the two."""
        first, second = self.releases
        return {
            "owner": ((first + second) / 2 * self.owner).sum(1).mean(),
            "pair": (first * second).sum(1).mean(),
        }


@dataclass(frozen=True)
class _Outputs:
    source: Tensor
    releases: tuple[_Release, _Release]
    seen: tuple[_Seen, ...]


class AnonymiseStage:
    """Trains ``Q`` and then ``A`` from one forward pass, in which each face is anonymised twice.

    The front-end has no weights, so it is the same before and after. Surrogates are frozen and share a batch.

    Args:
        network: sizes, for the noise.
        surrogates: K white-box recognisers.
        publish: how a face is pasted back.
        mask: ``(S, S)``, how much of the published face is painted; the rest is the source's, and is not
            compared with it. None for all of it.

    Raises:
        SettingsError: there are no surrogates, or fewer than two faces of a batch for each of them.
    """

    name = "anonymise"

    def __init__(
        self,
        networks: AnonymiserNetworks,
        config: StageConfig,
        *,
        network: AnonymiserNetworkConfig,
        settings: AnonymiserSettings,
        noise: NoisePool,
        surrogates: Sequence[Recognizer],
        publish: Callable[[Tensor, Tensor], Tensor],
        mask: Tensor | None = None,
    ) -> None:
        if not 0 < len(surrogates) <= config.batch // 2:
            raise SettingsError(
                f"expected 1 to {config.batch // 2} surrogates to share a batch of {config.batch} faces, two "
                f"or more for each, found {len(surrogates)}"
            )
        self.networks = networks
        self.config = config
        self.network = network
        self.settings = settings
        self.noise = noise
        self.surrogates = list(surrogates)
        self.publish = publish
        self.mask = mask
        self.players: tuple[Player, ...] = (
            Player("reconstructor", (networks.reconstructor,), self._reconstructor_losses),
            Player("anonymiser", (networks.anonymiser,), self._anonymiser_losses),
        )

    def begin(self) -> None:
        """Starts from random weights."""

    def modes(self) -> None:
        self.networks.anonymiser.train()
        self.networks.reconstructor.train()

    @property
    def shares(self) -> int:
        return len(self.surrogates)

    def forward(self, batch: Batch, step: int) -> _Outputs:
        if len(batch) < 2 * len(self.surrogates):
            raise SettingsError(
                f"expected two faces or more for each of {len(self.surrogates)} surrogates in each part of "
                f"a batch, found {len(batch)} faces; take fewer micro-batches (--accumulate) or more faces"
            )
        releases = self._releases(batch)
        return _Outputs(batch.face, releases, self._seen(batch, releases))

    def _releases(self, batch: Batch) -> tuple[_Release, _Release]:
        """Two anonymisations of every face, with noise of their own, painted as one batch."""
        face, draws = batch.face, batch.draws
        noises = [self._fresh_noise(draws).to(face.device) for _ in range(2)]
        least = self.settings.least_strength
        strengths = [least + (1 - least) * draws.uniform(1, 1, 1).to(face.device) for _ in range(2)]
        anonymiser = self.networks.anonymiser
        with torch.autocast(face.device.type, enabled=False):  # bfloat16 would move the steps
            left = torch.cat(
                [anonymiser.left(face, n.grain, s) for n, s in zip(noises, strengths, strict=True)]
            )
            tone = torch.cat([anonymiser.tone(n.shade, face.shape[-1]) for n in noises])
        painted = anonymiser.paint(left, tone).float().chunk(2)
        first, second = (
            _Release(tones, published, self.noise(published, draws).float())
            for tones, published in zip(
                tone.chunk(2), (self.publish(face, one) for one in painted), strict=True
            )
        )
        return first, second

    def _fresh_noise(self, draws: Draws) -> Noise:
        return Noise.draw(draws.normal, image_size=self.network.image_size, cells=self.network.cells)

    def _seen(self, batch: Batch, releases: tuple[_Release, _Release]) -> tuple[_Seen, ...]:
        """What each surrogate makes of its faces, which strangers align a little differently."""
        side = batch.face.shape[-1]
        found = batch.landmarks
        if self.settings.landmark_jitter:
            found = found + self.settings.landmark_jitter * side * batch.draws.normal_like(found)
        seen = []
        shares = shared_faces(len(batch), len(self.surrogates))
        for surrogate, faces in zip(self.surrogates, shares, strict=True):
            clean, grid = (
                surrogate.sampling_grid(landmarks[faces], side).to(batch.face.device)
                for landmarks in (batch.landmarks, found)
            )
            with torch.no_grad():
                owner = surrogate(batch.face[faces], clean)
            both = torch.cat([release.received[faces] for release in releases])
            first, second = surrogate(both, torch.cat([grid, grid])).chunk(2)
            seen.append(_Seen(owner, (first, second)))
        return tuple(seen)

    def _reconstructor_losses(self, outputs: _Outputs) -> Losses:
        reconstructed = self._reconstructed(outputs.releases[0].received.detach())
        return {
            "reconstruction": reconstruction_loss(reconstructed, outputs.source),
            "structure": structure_loss(reconstructed, outputs.source, self.mask),
        }

    def _anonymiser_losses(self, outputs: _Outputs) -> Losses:
        source, settings = outputs.source, self.settings
        embeddings = [(e, seen.owner) for seen in outputs.seen for e in seen.releases]
        reconstructed = self._reconstructed(outputs.releases[0].received)
        return {
            "identity": _mean(identity_loss(e, owner) for e, owner in embeddings),
            "pair": _mean(identity_loss(*seen.releases) for seen in outputs.seen),
            "strangers": _mean(stranger_loss(e, owner, settings.stranger_margin) for e, owner in embeddings),
            "similarity": _mean(
                similarity_loss(release.published, source, settings.similarity_bound, self.mask)
                for release in outputs.releases
            ),
            "tone": _mean(
                tone_loss(release.published, self.publish(source, release.tone), settings.tone_bound)
                for release in outputs.releases
            ),
            "recovery": similarity_loss(reconstructed, source, settings.recovery_bound, self.mask),
        }

    def _reconstructed(self, received: Tensor) -> Tensor:
        return self.networks.reconstructor(received).float()

    def figures(self, outputs: _Outputs) -> dict[str, Tensor]:
        """SSIM to the source, without a bound, and each surrogate's mean cosines."""
        with torch.no_grad():
            published = outputs.releases[0].published
            figures = {"ssim": ssim(published, outputs.source, self.mask).mean()}
            for surrogate, seen in zip(self.surrogates, outputs.seen, strict=True):
                for whom, cosine in seen.cosines().items():
                    figures[f"cosine_{whom}_{surrogate.card.name}"] = cosine
        return figures

    def end_epoch(self) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to take back."""


def _mean(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()
