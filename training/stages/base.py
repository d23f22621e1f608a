"""What the loop knows of a stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from ..batches import Batch
from ..shared_config import StageConfig

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Player:
    """One optimiser: the modules it trains and the losses it lowers, from the shared forward pass."""

    name: str
    modules: tuple[nn.Module, ...]
    losses: Callable[[Any], Losses]

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for module in self.modules for parameter in module.parameters()]


class Stage(Protocol):
    """A stage: one forward pass per step, shared by its players, who then step one after the other."""

    name: str
    config: StageConfig

    players: tuple[Player, ...]

    @property
    def shares(self) -> int:
        """Equal runs of a batch that it treats differently; a part of a batch must have its part of each."""

    def begin(self) -> None:
        """Initialises what this stage starts from the one before; called once, not on resume."""

    def modes(self) -> None:
        """Puts every network into training or evaluation mode; called at each start."""

    def forward(self, batch: Batch, step: int) -> Any:
        """The forward pass; ``step`` counts the steps of the run."""

    def figures(self, outputs: Any) -> dict[str, Tensor]:
        """What to log of a step beside its losses; a number each."""

    def end_epoch(self) -> dict[str, float]:
        """Closes an epoch; returns figures to log."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold of the stage beside networks and optimisers."""

    def restore(self, state: dict[str, Any]) -> None:
        """Takes ``state()`` back."""
