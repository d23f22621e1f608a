"""Run configurations: frozen presets, overridable field by field from the command line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace
from typing import Any

from .networks import Discriminator, Generator, Restorer
from .noise_pool import NoisePool


class SettingsError(ValueError):
    """Settings do not fit together."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Sizes of the networks; see ``training.networks``."""

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
class StageConfig:
    """What every stage has: how long, how fast, and the weight of each loss.

    Attributes:
        epochs: passes over the training faces.
        batch: faces per step.
        learning_rate: of Adam, betas (0.5, 0.999).
        weights: factor of each loss by its name; every loss of the stage needs one.
        minutes: the stage ends after so many, saving included, if its epochs are not over by then. Such a
            run depends on the machine's speed: a second one does not give the same bits.
        lr_schedule: ``constant``, or ``cosine`` from the learning rate down over the stage; see
            ``training.schedule``.
        ramps: by the name of a loss, the share of the stage over which its weight grows to the full one; 0
            is none. What bounds a picture's change, and is strict from the first step, lets nothing be
            learned.
    """

    epochs: int
    batch: int
    learning_rate: float
    weights: dict[str, float]
    minutes: float | None = None
    lr_schedule: str = "constant"
    ramps: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.minutes is not None and self.minutes <= 0:
            raise ValueError(f"expected minutes > 0 or none, found {self.minutes}")
        if self.lr_schedule not in ("constant", "cosine"):
            raise ValueError(f"expected lr_schedule constant or cosine, found {self.lr_schedule!r}")
        for name, share in self.ramps.items():
            if name not in self.weights or not 0 <= share <= 1:
                raise ValueError(
                    f"expected ramps of losses that have a weight ({', '.join(self.weights)}), over a share "
                    f"of the stage in [0, 1], found {name}: {share}"
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
class RunConfig:
    """Everything a run is made of, but for its data and recognisers.

    Attributes:
        precision: ``fp32`` or ``bf16`` (autocast of the networks; losses and recognisers stay fp32).
        accumulate: micro-batches of each process's part of a batch, for less memory. In stage 1 each has
            batch statistics of its own, in stage 2 a meta step and a bound (Eqs. 10 and 12) of its own.
        ema_decay: of the exponential moving average that is exported; 0 exports the last weights.
        realignment: in stage 3, how far the published face's alignment strays from the one it was protected
            with; see ``training.stages.publish.Realignment``.
        release_margin: in stage 3, cosine to the target below which it has let go of a restored face.
        paste_mask: train on the face as it is pasted back, through the mask around it.
    """

    name: str
    network: NetworkConfig
    attributes: StageConfig
    attack: StageConfig
    erasure: StageConfig
    attack_settings: AttackConfig = field(default_factory=AttackConfig)
    noise: NoisePool = field(default_factory=NoisePool)
    precision: str = "fp32"
    accumulate: int = 1
    ema_decay: float = 0.999
    realignment: float = 0.0
    release_margin: float = 0.0
    paste_mask: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ValueError(f"expected accumulate >= 1, found {self.accumulate}")


def override(config: RunConfig, assignments: list[str]) -> RunConfig:
    """Applies ``path.to.field=value`` assignments, e.g. ``attack_settings.injection=0.1``.

    Raises:
        ValueError: an assignment has no ``=``, its field does not exist, or its value has another type.
    """
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator:
            raise ValueError(f"expected FIELD=VALUE, found {assignment!r}")
        config = _replace(config, path.split("."), text, path)
    return config


def _replace(node: Any, path: list[str], text: str, whole: str) -> Any:
    head, *rest = path
    if isinstance(node, dict):
        if head not in node:
            raise ValueError(f"no field {whole!r}; there are: {', '.join(node)}")
        if rest:
            raise ValueError(f"no field {whole!r}; there are: none below {head!r}")
        return {**node, head: _parse(node[head], text, whole)}
    fields = {f.name: f for f in dataclasses.fields(node)} if dataclasses.is_dataclass(node) else {}
    if head not in fields:
        raise ValueError(f"no field {whole!r}; there are: {', '.join(fields) or 'none below it'}")
    current = getattr(node, head)
    if rest:
        value = _replace(current, rest, text, whole)
    elif fields[head].type == "float | None":
        value = None if text.lower() == "none" else _parse(0.0, text, whole)
    else:
        value = _parse(current, text, whole)
    return replace(node, **{head: value})


def _parse(current: Any, text: str, whole: str) -> Any:
    try:
        if isinstance(current, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(current, int | float | str):
            return type(current)(text)
        if isinstance(current, tuple):
            low, high = text.split(",")
            return (float(low), float(high))
    except (KeyError, ValueError):
        pass
    raise ValueError(f"{whole}: expected a value like {current!r}, found {text!r}")


def config_from_dict(raw: dict[str, Any]) -> RunConfig:
    """Rebuilds a configuration from ``dataclasses.asdict``, as checkpoints hold it."""
    noise = {**raw["noise"], "jpeg_quality": tuple(raw["noise"]["jpeg_quality"])}
    return RunConfig(
        **{
            **raw,
            "network": NetworkConfig(**raw["network"]),
            "attributes": StageConfig(**raw["attributes"]),
            "attack": StageConfig(**raw["attack"]),
            "erasure": StageConfig(**raw["erasure"]),
            "attack_settings": AttackConfig(**raw["attack_settings"]),
            "noise": NoisePool(**noise),
        }
    )
