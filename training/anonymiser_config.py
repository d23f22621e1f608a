"""The anonymiser's run configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .networks import Anonymiser, AnonymiserNetworks, FrontEnd, Restorer
from .shared_config import SharedConfig, StageConfig


@dataclass(frozen=True, kw_only=True)
class AnonymiserNetworkConfig:
    """Sizes of the anonymiser's networks.

    Attributes:
        image_size: side of the face in pixels.
        width, depth, shortcut_layers: of the painter, see ``training.networks.Anonymiser``.
        reconstructor_width: channels of the first layer of ``Q``, whose other sizes are the painter's.
        sigma, window, floor, levels, grain: see ``training.networks.FrontEnd``.
        cells: of the noise that becomes colour and light, a side.
        stochastic: False takes all noise for zero, in training and wherever the network runs: the ablation.
    """

    image_size: int
    width: int
    depth: int
    shortcut_layers: int
    reconstructor_width: int
    sigma: float = 0.025
    window: float = 0.05
    floor: float = 0.02
    levels: int = 5
    grain: float = 1.5
    cells: int = 4
    stochastic: bool = True

    def networks(self) -> AnonymiserNetworks:
        """Both, with random weights."""
        return AnonymiserNetworks(self.anonymiser(), self.reconstructor())

    def anonymiser(self) -> Anonymiser:
        return Anonymiser(
            FrontEnd(
                image_size=self.image_size,
                sigma=self.sigma,
                window=self.window,
                floor=self.floor,
                levels=self.levels,
                grain=self.grain,
            ),
            width=self.width,
            depth=self.depth,
            shortcut_layers=self.shortcut_layers,
            stochastic=self.stochastic,
        )

    def reconstructor(self) -> Restorer:
        return Restorer(
            width=self.reconstructor_width, depth=self.depth, shortcut_layers=self.shortcut_layers
        )


@dataclass(frozen=True, kw_only=True)
class AnonymiserSettings:
    """What the losses and the noise of the stage ``anonymise`` are told.

    Attributes:
        strength: of the grain in use, the default that is exported.
        least_strength: training draws each face's strength from here to 1.
        stranger_margin: see ``stranger_loss``.
        similarity_bound: SSIM to the source up to which an anonymised face is free.
        tone_bound: see ``tone_loss``.
        recovery_bound: SSIM to the source up to which ``Q``'s reconstruction costs nothing.
        landmark_jitter: standard deviation of the landmarks that surrogates align the anonymised face by, as
            a share of the side; strangers find landmarks of their own.
    """

    strength: float = 0.8
    least_strength: float = 0.0
    stranger_margin: float = 0.3
    similarity_bound: float = 0.2
    tone_bound: float = 0.1
    recovery_bound: float = 0.4
    landmark_jitter: float = 0.0

    def __post_init__(self) -> None:
        for name in ("strength", "least_strength"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"expected {name} in [0, 1], found {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class AnonymiserConfig(SharedConfig):
    """Everything a run of the anonymiser is made of, but for its data and recognisers.

    With micro-batches (``accumulate``) each has batch statistics and strangers of its own.
    """

    system = "anonymiser"

    network: AnonymiserNetworkConfig
    anonymise: StageConfig
    settings: AnonymiserSettings = field(default_factory=AnonymiserSettings)


def anonymiser_config_from_dict(raw: dict[str, Any]) -> AnonymiserConfig:
    """Rebuilds the configuration from its fields, the noise pool made already."""
    return AnonymiserConfig(
        **{
            **raw,
            "network": AnonymiserNetworkConfig(**raw["network"]),
            "anonymise": StageConfig(**raw["anonymise"]),
            "settings": AnonymiserSettings(**raw["settings"]),
        }
    )
