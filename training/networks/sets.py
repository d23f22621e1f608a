"""The networks of a run by their names, as checkpoints hold them: one class for each system."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from torch import nn

from .anonymiser import Anonymiser
from .discriminator import Discriminator
from .generator import Generator
from .restorer import Restorer


class NetworkSet:
    """A run's networks; every stage trains some and freezes the others."""

    def items(self) -> dict[str, nn.Module]:
        """The networks by their names."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def placed(self, place: Callable[[Any], Any]) -> Self:
        """The set of what ``place`` makes of each network."""
        return type(self)(**{name: place(network) for name, network in self.items().items()})


@dataclass(frozen=True)
class Networks(NetworkSet):
    """The mask's."""

    generator: Generator
    restorer: Restorer
    discriminator: Discriminator


@dataclass(frozen=True)
class AnonymiserNetworks(NetworkSet):
    """The anonymiser's.

    Attributes:
        reconstructor: ``Q``, who tries to undo it: the mask's restorer, which is a U-Net that does the same.
    """

    anonymiser: Anonymiser
    reconstructor: Restorer
