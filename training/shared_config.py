"""What every system's run configuration has, whatever its networks, stages and losses are."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from .networks import NetworkSet
from .noise_pool import NoisePool

SystemName = Literal["mask", "anonymiser"]


class SettingsError(ValueError):
    """Settings do not fit together."""


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


class NetworkSizes(Protocol):
    """Sizes of a system's networks."""

    @property
    def image_size(self) -> int:
        """Side of the face in pixels."""

    def networks(self) -> NetworkSet:
        """The networks, with random weights, on the CPU."""


@dataclass(frozen=True, kw_only=True)
class SharedConfig:
    """What every run is made of, but for its data and recognisers; the loop needs no more.

    Attributes:
        network: sizes of the networks.
        noise: what a published picture meets.
        precision: ``fp32`` or ``bf16`` (autocast of the networks; losses and recognisers stay fp32).
        accumulate: micro-batches of each process's part of a batch, for less memory. What is no mean over
            faces is then each micro-batch's own; the stages say what that is.
        ema_decay: of the exponential moving average that is exported; 0 exports the last weights.
        paste_mask: train on the face as it is pasted back, through the mask around it.
    """

    system: ClassVar[SystemName]

    name: str
    network: NetworkSizes
    noise: NoisePool = field(default_factory=NoisePool)
    precision: str = "fp32"
    accumulate: int = 1
    ema_decay: float = 0.999
    paste_mask: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ValueError(f"expected accumulate >= 1, found {self.accumulate}")

    def stage_configs(self) -> dict[str, StageConfig]:
        """The stages' configurations by the stages' names, in order."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if isinstance(value, StageConfig)}

    def to_dict(self) -> dict[str, Any]:
        """The system and every field as plain values; ``config_from_dict`` takes it back."""
        return {"system": self.system, **dataclasses.asdict(self)}
