"""Training of a small network that may be stopped and goes on where it was."""

from __future__ import annotations

import json
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

logger = logging.getLogger(__name__)

SAVE_EVERY_S = 60.0


def write_state(state: Mapping[str, Any], path: Path) -> None:
    """Writes a checkpoint, whole or not at all."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


class Resumable(ABC):
    """A network, its optimiser, and how far they are, kept in a file.

    Args:
        file: of the checkpoint; one that is there is gone on with.
        given: all that the training depends on, JSON-like; must be the same whenever it goes on.
        steps: in all.

    Attributes:
        given: as the file gives it back.
        done: steps so far.
        seconds: spent on them.
        curve: mean losses since the entry before, one a minute.

    Raises:
        ValueError: the file holds a training that was given something else.
    """

    def __init__(
        self,
        file: Path,
        given: Mapping[str, Any],
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        steps: int,
    ) -> None:
        self.given = json.loads(json.dumps(given))
        self.done, self.seconds = 0, 0.0
        self.curve: list[dict[str, float]] = []
        self.optimizer = optimizer
        self._file, self._network, self._steps = file, network, steps
        if file.exists():
            self._resume()

    def _resume(self) -> None:
        state = torch.load(self._file, map_location="cpu", weights_only=True)
        if state["given"] != self.given:
            raise ValueError(
                f"{self._file} was trained with {state['given']}, expected {self.given}; use another "
                "--folder, or the same settings"
            )
        self._network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done, self.seconds, self.curve = state["done"], state["seconds"], state["curve"]

    def save(self) -> None:
        """Writes everything that going on needs, whole or not at all."""
        state = {
            "given": self.given,
            "network": self._network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "done": self.done,
            "seconds": self.seconds,
            "curve": self.curve,
        }
        write_state(state, self._file)

    @abstractmethod
    def _step(self) -> Mapping[str, float]:
        """Makes the step of number ``done`` and returns its losses by name.

        Everything random in it depends on the seed and its number alone.
        """

    def run(self, minutes: float | None) -> bool:
        """Trains to the end, or for some minutes; True at the end."""
        began = saved = clock = time.monotonic()
        recent: list[Mapping[str, float]] = []
        while self.done < self._steps and (minutes is None or clock - began < 60 * minutes):
            recent.append(self._step())
            self.done += 1
            now = time.monotonic()
            self.seconds, clock = self.seconds + now - clock, now
            if clock - saved > SAVE_EVERY_S or self.done == self._steps:
                means = {name: float(np.mean([losses[name] for losses in recent])) for name in recent[0]}
                self.curve.append({"step": self.done, **means})
                logger.info("%s: step %d of %d: %s", self._file.stem, self.done, self._steps, means)
                self.save()
                saved, recent = clock, []
        self.save()
        return self.done == self._steps
