"""What each system trains towards: its stages, and what its runs say and show of themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .batches import Batch
from .config import AnonymiserConfig, RunConfig
from .data import ATTRIBUTES
from .networks import AnonymiserNetworks, Networks
from .perceptual import Lpips
from .ranks import Ranks
from .samples import anonymised_grid, sample_grid
from .stages import AnonymiseStage, AttackStage, AttributeStage, ErasureStage, Stage
from .stages.publish import Publish
from .surrogates import Recognizer
from .target import target_embeddings, target_pictures


class Task(Protocol):
    """What a system needs beside its configuration and faces."""

    @property
    def about(self) -> dict[str, Any]:
        """What a run is given that only this system has, JSON-like."""

    def stages(self, networks: Any, ranks: Ranks) -> list[Stage]:
        """The stages, in order, for the same networks."""

    def grid(self, networks: Any, sample: Batch) -> Tensor:
        """What the networks do to a few faces, ``(3, H, W)`` in [0, 1]."""


@dataclass(frozen=True)
class MaskTask:
    """The mask's: a target identity, and LPIPS where the configuration trains for it."""

    config: RunConfig
    recognizers: Sequence[Recognizer]
    targets: Sequence[Tensor]
    perceptual: Lpips | None
    publish: Publish
    about: dict[str, Any]

    @classmethod
    def prepare(
        cls,
        config: RunConfig,
        recognizers: Sequence[Recognizer],
        *,
        target: Path,
        target_text: str | None,
        lpips_trunk: Path | None,
        device: torch.device,
    ) -> MaskTask:
        """Reads the target and the weights of LPIPS, and puts the networks where they are used.

        Args:
            target, target_text, lpips_trunk: see ``training.recipe.Job``.

        Raises:
            DataError: the target cannot be used.
            PerceptualError: LPIPS's weights cannot be used.
        """
        pictures = target_pictures(target)
        targets = [embedding.to(device) for embedding in target_embeddings(pictures, recognizers)]
        wants_lpips = "lpips" in config.attack.weights
        return cls(
            config,
            [recognizer.to(device) for recognizer in recognizers],
            targets,
            Lpips("alex", lpips_trunk).to(device) if wants_lpips else None,
            Publish(config.network.image_size, masked=config.paste_mask),
            {
                "attributes": list(ATTRIBUTES),
                "target": target_text or ", ".join(picture.name for picture in pictures),
                "target_sha256": [sha256(picture.read_bytes()).hexdigest() for picture in pictures],
            },
        )

    def stages(self, networks: Networks, ranks: Ranks) -> list[Stage]:
        return make_stages(
            self.config, networks, self.recognizers, self.targets, self.publish, self.perceptual, ranks
        )

    def grid(self, networks: Networks, sample: Batch) -> Tensor:
        return sample_grid(networks, sample, self.config.attack_settings, self.publish)


class AnonymiserTask:
    """The anonymiser's: recognisers alone, which are to go on recognising everybody."""

    def __init__(self, config: AnonymiserConfig, recognizers: Sequence[Recognizer]) -> None:
        self.config = config
        self.recognizers = recognizers
        self.publish = Publish(config.network.image_size, masked=config.paste_mask, whole_crop=True)
        self.about: dict[str, Any] = {}

    def stages(self, networks: AnonymiserNetworks, ranks: Ranks) -> list[Stage]:
        return [
            AnonymiseStage(
                networks,
                self.config.anonymise,
                network=self.config.network,
                settings=self.config.settings,
                noise=self.config.noise,
                surrogates=self.recognizers,
                publish=self.publish,
                mask=self.publish.mask,
            )
        ]

    def grid(self, networks: AnonymiserNetworks, sample: Batch) -> Tensor:
        return anonymised_grid(networks, sample, self.config.network, self.config.settings, self.publish)


def make_stages(
    config: RunConfig,
    networks: Networks,
    recognizers: Sequence[Recognizer],
    targets: Sequence[Tensor],
    publish: Publish,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    ranks: Ranks | None = None,
) -> list[Stage]:
    """The paper's three stages, in order, for the same networks.

    Args:
        targets: unit-norm embedding ``(d_i,)`` of the target by each recogniser.
        perceptual: LPIPS, for a configuration that trains for it.
        ranks: the processes that share a batch, if there are several.
    """
    attack = config.attack_settings
    return [
        AttributeStage(networks, config.attributes),
        AttackStage(
            networks,
            config.attack,
            attack=attack,
            noise=config.noise,
            surrogates=recognizers,
            targets=targets,
            publish=publish,
            perceptual=perceptual,
            mean_over_ranks=ranks.mean if ranks else list,
        ),
        ErasureStage(
            networks,
            config.erasure,
            attack=attack,
            noise=config.noise,
            publish=publish,
            surrogates=recognizers,
            targets=targets,
            release_margin=config.release_margin,
            realignment=config.realignment,
        ),
    ]
