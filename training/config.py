"""Run configurations: the mask's, and for every system how one is changed, and read from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .anonymiser_config import AnonymiserConfig, anonymiser_config_from_dict
from .networks import Discriminator, Generator, Networks, Restorer
from .noise_pool import NoisePool
from .overrides import override
from .shared_config import SettingsError, SharedConfig, StageConfig

__all__ = [
    "AnonymiserConfig",
    "AttackConfig",
    "NetworkConfig",
    "RunConfig",
    "SettingsError",
    "SharedConfig",
    "StageConfig",
    "config_from_dict",
    "override",
]


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Sizes of the mask's networks; see ``training.networks``."""

    image_size: int
    width: int
    depth: int
    shortcut_layers: int
    inject_layers: int
    discriminator_width: int
    discriminator_depth: int
    discriminator_hidden: int
    discriminator_max_channels: int
    n_attributes: int = 13
    perturbation_context: bool = False

    def networks(self) -> Networks:
        """All three, with random weights."""
        return Networks(self.generator(), self.restorer(), self.discriminator())

    def generator(self) -> Generator:
        return Generator(
            width=self.width,
            depth=self.depth,
            n_attributes=self.n_attributes,
            shortcut_layers=self.shortcut_layers,
            inject_layers=self.inject_layers,
            perturbation_context=self.perturbation_context,
        )

    def restorer(self) -> Restorer:
        return Restorer(width=self.width, depth=self.depth, shortcut_layers=self.shortcut_layers)

    def discriminator(self) -> Discriminator:
        return Discriminator(
            image_size=self.image_size,
            width=self.discriminator_width,
            depth=self.discriminator_depth,
            n_attributes=self.n_attributes,
            hidden=self.discriminator_hidden,
            max_channels=self.discriminator_max_channels,
        )


@dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """Stage 2's own settings (Eqs. 6-12).

    Attributes:
        strength: 1 - beta of Eq. 6 (paper: 0.5).
        injection: gamma of the clean branch.
        sigma: sigma_1 of Eq. 8, a Euclidean norm in [-1, 1] (paper: 30 at 256 px; norms grow with
            the side, so 15 at 128 px says the same; what the paper publishes reaches about 47).
        chroma_weight: factor of the perturbation's colour in Eq. 8's norm; 1 is the paper.
        epsilon: bound of Eq. 12.
        inner_lr: learning rate of the meta-train step, Eq. 10.
        second_order: differentiate through the meta-train step.
        primaries_per_step: primary tasks per step; 0 means all K (Algorithm 1), fewer take turns.
        meta_every: a meta step every so many steps (Algorithm 1: 1); in the others the auxiliary losses
            are taken at the parameters themselves, the meta step's limit for a small ``inner_lr``. 0 never
            makes one: a plain ensemble of surrogates, Table VII's ablation.
        owner_weight: of the owner term inside each surrogate's loss; 0 is the paper.
        owner_margin: cosine to oneself below which the owner counts as lost.
        share_batch: each face meets one surrogate a step instead of all: the same expectation for 1/K of
            the recognisers' cost a face.
        landmark_jitter: standard deviation of the landmarks that surrogates align by, as a share of the
            side; strangers find landmarks of their own.
        lpips_bound: LPIPS to the edited face up to which the perturbation is free; counts only where the
            loss ``lpips`` has a weight (the paper has none).
        edit_share: share of faces given another face's attributes; the others keep their own.
    """

    strength: float = 0.5
    injection: float = 0.05
    sigma: float = 30.0
    chroma_weight: float = 1.0
    epsilon: float = 0.1
    inner_lr: float = 2e-5
    second_order: bool = True
    primaries_per_step: int = 0
    meta_every: int = 1
    owner_weight: float = 0.0
    owner_margin: float = 0.0
    share_batch: bool = False
    landmark_jitter: float = 0.0
    lpips_bound: float = 0.0
    edit_share: float = 1.0

    def __post_init__(self) -> None:
        if self.meta_every < 0 or self.primaries_per_step < 0:
            raise ValueError(
                "expected meta_every >= 0 and primaries_per_step >= 0, "
                f"found {self.meta_every} and {self.primaries_per_step}"
            )


@dataclass(frozen=True, kw_only=True)
class RunConfig(SharedConfig):
    """Everything a run of the mask is made of, but for its data and recognisers.

    With micro-batches (``accumulate``) stage 1 has batch statistics of each, and stage 2 a meta step and a
    bound (Eqs. 10 and 12).

    Attributes:
        realignment: in stage 3, how far the published face's alignment strays from the one it was protected
            with; see ``training.stages.publish.Realignment``.
        release_margin: in stage 3, cosine to the target below which it has let go of a restored face.
    """

    system = "mask"

    network: NetworkConfig
    attributes: StageConfig
    attack: StageConfig
    erasure: StageConfig
    attack_settings: AttackConfig = field(default_factory=AttackConfig)
    realignment: float = 0.0
    release_margin: float = 0.0


def config_from_dict(raw: dict[str, Any]) -> SharedConfig:
    """Rebuilds a configuration from ``SharedConfig.to_dict``, as checkpoints hold it.

    Those from before there were two systems name none; they are the mask's.
    """
    noise = {**raw["noise"], "jpeg_quality": tuple(raw["noise"]["jpeg_quality"])}
    raw = {**raw, "noise": NoisePool(**noise)}
    if raw.pop("system", RunConfig.system) == AnonymiserConfig.system:
        return anonymiser_config_from_dict(raw)
    return RunConfig(
        **{
            **raw,
            "network": NetworkConfig(**raw["network"]),
            "attributes": StageConfig(**raw["attributes"]),
            "attack": StageConfig(**raw["attack"]),
            "erasure": StageConfig(**raw["erasure"]),
            "attack_settings": AttackConfig(**raw["attack_settings"]),
        }
    )
