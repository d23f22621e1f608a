"""Stage 2 (Eq. 15): the perturbation encoder learns the attack, the restorer to undo it, end to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from ..batches import Batch
from ..config import AttackConfig, SettingsError, StageConfig
from ..losses import (
    attribute_loss,
    discriminator_loss,
    erasure_loss,
    generator_loss,
    perceptual_loss,
    perturbation_loss,
    surrogate_weights,
    visibility_loss,
)
from ..meta_attack import AttackLosses, Parameters, meta_auxiliary_attack
from ..networks import Networks
from ..networks.generator import CleanBranch
from ..noise_pool import NoisePool
from ..surrogates import Recognizer, SurrogateError
from .base import Losses, Player
from .publish import edited_attributes
from .surrogate_loss import SurrogateLoss, shared_faces


@dataclass(frozen=True)
class _Outputs:
    batch: Batch
    attributes: Tensor  # att_b
    edited: Tensor  # x_cov^{att_b}
    protected: Tensor  # x_adv, as the network gives it
    published: Tensor  # x_adv pasted back
    restored: Tensor
    attack: AttackLosses
    similarities: list[dict[str, Tensor]]  # of each surrogate, see SurrogateLoss


class AttackStage:
    """``10 L_att^G + L_G + 200 L_adv + 150 L_era + L_perb`` trains ``E_adv`` and ``R``.

    ``G_enc`` and ``G_dec`` are frozen, so ``L_rec`` of Eq. 15 is a constant and is left out. Batch
    statistics are frozen too: ``E_adv`` and ``R`` start from trained ones, and what is trained is then
    exactly what is exported.

    Args:
        surrogates: K white-box recognisers, frozen.
        targets: ``(d_i,)`` unit-norm embedding of the target by each of them.
        publish: how a face is pasted back.
        perceptual: LPIPS of two batches of pictures; needed where the loss ``lpips`` has a weight.
        mean_over_ranks: of each tensor, for a batch that is divided among processes.

    Raises:
        SurrogateError: fewer than two surrogates.
        SettingsError: the batch cannot be shared among the surrogates, or LPIPS is missing.
    """

    name = "attack"

    def __init__(
        self,
        networks: Networks,
        config: StageConfig,
        *,
        attack: AttackConfig,
        noise: NoisePool,
        surrogates: Sequence[Recognizer],
        targets: Sequence[Tensor],
        publish: Callable[[Tensor, Tensor], Tensor],
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
        mean_over_ranks: Callable[[Sequence[Tensor]], list[Tensor]] = list,
    ) -> None:
        if len(surrogates) < 2:
            raise SurrogateError(f"expected at least 2 surrogates to take turns, found {len(surrogates)}")
        if attack.share_batch and config.batch < len(surrogates):
            raise SettingsError(
                f"expected a batch of at least {len(surrogates)} faces to share, found {config.batch}"
            )
        if "lpips" in config.weights and perceptual is None:
            raise SettingsError("the loss lpips has a weight; expected its network, found None")
        self.networks = networks
        self.config = config
        self.attack = attack
        self.noise = noise
        self.surrogates = list(surrogates)
        self.targets = list(targets)
        self.publish = publish
        self.mean_over_ranks = mean_over_ranks
        self.perceptual = perceptual if "lpips" in config.weights else None
        self.history: list[list[float]] = []  # mean loss of each surrogate, a row an epoch
        self._sums = torch.zeros(len(self.surrogates))
        self._steps = 0
        self.players: tuple[Player, ...] = (
            Player("discriminator", (networks.discriminator,), self._discriminator_losses),
            Player("protector", (networks.generator.perturbation_encoder, networks.restorer), self._losses),
        )

    def begin(self) -> None:
        """``E_adv`` starts from ``G_enc``, ``R`` from ``G_enc`` and ``G_dec``."""
        self.networks.generator.start_perturbation_from_encoder()
        self.networks.restorer.start_from(self.networks.generator)

    def modes(self) -> None:
        self.networks.generator.eval()
        self.networks.restorer.eval()
        self.networks.discriminator.train()
        self.networks.generator.requires_grad_(False)
        self.networks.generator.perturbation_encoder.requires_grad_(True)

    @property
    def shares(self) -> int:
        return len(self.surrogates) if self.attack.share_batch else 1

    @property
    def weights(self) -> Tensor:
        """w_i(t) of Eq. 11 for the epoch at hand."""
        previous, before = ([None, None, *self.history][-1], [None, None, *self.history][-2])
        return surrogate_weights(previous, before, len(self.surrogates))

    def primaries(self, step: int) -> list[int]:
        """Which surrogates are primary in a step: all, or the next ones in turn."""
        k = len(self.surrogates)
        per_step = min(self.attack.primaries_per_step or k, k)
        turn = step // max(self.attack.meta_every, 1)  # every surrogate gets its turn among the meta steps
        return [(turn * per_step + i) % k for i in range(per_step)]

    def forward(self, batch: Batch, step: int) -> _Outputs:
        generator = self.networks.generator
        edited = edited_attributes(batch.all_attributes, self.attack.edit_share)
        attributes = batch.draws.mine(edited).to(batch.face.device)
        with torch.no_grad():
            clean = generator.clean(batch.face, attributes)

        losses = self._attack_losses(batch)
        attack = meta_auxiliary_attack(
            lambda theta: self._protect(theta, batch, clean, attributes),
            lambda protected: self.noise(self.publish(batch.face, protected), batch.draws),
            losses,
            dict(generator.perturbation_encoder.named_parameters()),
            weights=self.weights,
            primaries=self.primaries(step),
            inner_lr=self.attack.inner_lr,
            epsilon=self.attack.epsilon,
            second_order=self.attack.second_order,
            meta=self.attack.meta_every > 0 and step % self.attack.meta_every == 0,
            mean_over_ranks=self.mean_over_ranks,
        )
        self._sums += attack.primary.cpu()
        self._steps += 1

        published = self.publish(batch.face, attack.protected)
        restored = self.publish(attack.observed, self.networks.restorer(attack.observed))
        return _Outputs(
            batch=batch,
            attributes=attributes,
            edited=clean.face.float(),
            protected=attack.protected.float(),
            published=published,
            restored=restored,
            attack=attack,
            similarities=[loss.similarities for loss in losses],
        )

    def _protect(self, theta: Parameters, batch: Batch, clean: CleanBranch, attributes: Tensor) -> Tensor:
        generator = self.networks.generator
        perturbed = functional_call(generator.perturbation_encoder, dict(theta), (batch.face,))
        return generator.perturb(
            perturbed, clean, attributes, strength=self.attack.strength, injection=self.attack.injection
        )

    def _attack_losses(self, batch: Batch) -> list[SurrogateLoss]:
        side = batch.face.shape[-1]
        found = batch.landmarks
        if self.attack.landmark_jitter:
            found = found + self.attack.landmark_jitter * side * batch.draws.normal_like(found)

        def grid_of(surrogate: Recognizer, landmarks: Tensor) -> Tensor:
            return surrogate.sampling_grid(landmarks, side).to(batch.face.device, non_blocking=True)

        def owner_of(surrogate: Recognizer, faces: slice) -> Tensor:
            with torch.no_grad():
                return surrogate(batch.face[faces], grid_of(surrogate, batch.landmarks[faces]))

        n, k = len(batch), len(self.surrogates)
        seen = shared_faces(n, k) if self.attack.share_batch else [slice(0, n)] * k
        return [
            SurrogateLoss(
                surrogate=surrogate,
                target=target,
                faces=faces,
                grid=grid_of(surrogate, found[faces]),
                owner=owner_of(surrogate, faces),
                owner_weight=self.attack.owner_weight,
                owner_margin=self.attack.owner_margin,
            )
            for surrogate, target, faces in zip(self.surrogates, self.targets, seen, strict=True)
        ]

    def _discriminator_losses(self, outputs: _Outputs) -> Losses:
        n = len(outputs.batch)
        logits, attributes = self.networks.discriminator(
            torch.cat([outputs.batch.face, outputs.published.detach()])
        )
        return {
            "discriminator": discriminator_loss(logits[:n].float(), logits[n:].float()),
            "attribute_real": attribute_loss(attributes[:n], outputs.batch.attributes),
        }

    def _losses(self, outputs: _Outputs) -> Losses:
        logits, attributes = self.networks.discriminator(outputs.published)
        losses = {
            "attack": outputs.attack.total,
            "erasure": erasure_loss(outputs.restored, outputs.batch.face),
            "perturbation": perturbation_loss(
                outputs.protected, outputs.edited, self.attack.sigma, self.attack.chroma_weight
            ),
            "attribute": attribute_loss(attributes, outputs.attributes),
            "generator": generator_loss(logits.float()),
        }
        edited = self.publish(outputs.batch.face, outputs.edited)
        if self.perceptual is not None:
            distances = self.perceptual(outputs.published, edited)
            losses["lpips"] = perceptual_loss(distances, self.attack.lpips_bound)
        if "visibility" in self.config.weights:
            losses["visibility"] = visibility_loss(outputs.published, edited)
        return losses

    def figures(self, outputs: _Outputs) -> dict[str, Tensor]:
        figures = {"auxiliary": outputs.attack.auxiliary}
        told = zip(self.surrogates, outputs.attack.primary, outputs.similarities, strict=True)
        for surrogate, loss, similarities in told:
            figures[f"primary_{surrogate.card.name}"] = loss
            for whom, cosine in similarities.items():
                figures[f"cosine_{whom}_{surrogate.card.name}"] = cosine
        return figures

    def end_epoch(self) -> dict[str, float]:
        self.history.append((self._sums / max(self._steps, 1)).tolist())
        self._sums = torch.zeros(len(self.surrogates))
        self._steps = 0
        return {f"weight_{s.card.name}": float(w) for s, w in zip(self.surrogates, self.weights, strict=True)}

    def state(self) -> dict[str, Any]:
        return {"history": self.history, "sums": self._sums.tolist(), "steps": self._steps}

    def restore(self, state: dict[str, Any]) -> None:
        self.history = state["history"]
        self._sums = torch.tensor(state["sums"])
        self._steps = state["steps"]
