"""The training loop: it knows batches, players and checkpoints, and no stage by name."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from .averaging import averaged
from .batches import epoch_batches, steps_per_epoch
from .checkpoint import CHECKPOINT_NAME, CheckpointError, load_checkpoint, save_checkpoint
from .config import SharedConfig, config_from_dict
from .data import FacePack
from .fingerprint import FIELD
from .networks import NetworkSet
from .ranks import Ranks, launch
from .schedule import learning_rate, loss_weights, stage_progress
from .stages import Stage
from .step import take_step

logger = logging.getLogger(__name__)


class Monitor(Protocol):
    """Where figures and progress go; see ``training.monitor``."""

    def begin(self, stage: Stage, total_steps: int, done_steps: int) -> None: ...
    def step(self, stage: Stage, global_step: int, figures: dict[str, float]) -> None: ...
    def epoch(self, stage: Stage, epoch: int, global_step: int, figures: dict[str, float]) -> None: ...


@dataclasses.dataclass
class Position:
    """Where a run is: stage and epoch, steps done in the epoch and in all, seconds spent in the stage."""

    stage: int = 0
    epoch: int = 0
    step: int = 0
    global_step: int = 0
    seconds: float = 0.0


class Run:
    """A run in a folder: starts or goes on, checkpoints itself, ends after the last stage.

    Args:
        folder: where the checkpoint lies.
        config: the resolved configuration; that of a resumed run must equal the checkpoint's.
        networks: freshly made; a checkpoint's weights replace theirs.
        stages: in order.
        pack: training faces.
        about: what the run was given (data, surrogates, target), JSON-like; a resumed run's must be equal.
        commit: of the code; each one that worked on the run is remembered.
        continues: another run, whose averaged networks a new run begins with.
        first_stage: name of the stage at which it then begins; the other run must be past those before.
        keep_trained: begin that stage with what the other run trained in it already, not as it begins anew.
        checkpoint_every_s: seconds between checkpoints.
        ranks: the processes that train it; this one alone, on the CPU, if None. The networks, and what the
            stages hold, must be where they are; the first one writes the folder, which all of them read.
    """

    def __init__(
        self,
        folder: Path,
        config: SharedConfig,
        networks: NetworkSet,
        stages: Sequence[Stage],
        pack: FacePack,
        about: dict[str, Any],
        *,
        commit: str = "unknown",
        continues: Path | None = None,
        first_stage: str = "",
        keep_trained: bool = False,
        checkpoint_every_s: float = 120.0,
        ranks: Ranks | None = None,
    ) -> None:
        self.folder = folder
        self.config = config
        self.networks = networks
        self.stages = list(stages)
        self.pack = pack
        self.given = about
        self.about: dict[str, Any] = {**about, "commits": [commit]}
        self.checkpoint_every_s = checkpoint_every_s
        self.ranks = ranks or launch(accelerator="cpu", precision=config.precision)
        self.at = Position()
        self.averaged = {
            name: averaged(network, config.ema_decay) for name, network in networks.items().items()
        }
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        for stage in self.stages:  # say before hours of training that a later stage cannot be
            steps_per_epoch(pack, stage.config.batch)
            self._rows(stage)
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / CHECKPOINT_NAME).exists():
            self._resume()
        elif continues is not None:
            self._begin_after(continues, first_stage, keep_trained)
        else:
            self.stages[0].begin()
            self._begin_stage()

    def train(self, monitor: Monitor, *, stop_after_steps: int | None = None) -> None:
        """Trains to the end, or for a number of steps; checkpoints on the way and at the end."""
        last = None if stop_after_steps is None else self.at.global_step + stop_after_steps
        saved_at = time.monotonic()
        while self.at.stage < len(self.stages):
            stage = self.stages[self.at.stage]
            per_epoch = steps_per_epoch(self.pack, stage.config.batch)
            done = self.at.epoch * per_epoch + self.at.step
            monitor.begin(stage, stage.config.epochs * per_epoch, done)
            clock = time.monotonic()
            while self.at.step or self._progress(stage) < 1:  # an epoch that was begun is closed
                seed = self.config.seed * 100 + self.at.stage
                batches = epoch_batches(
                    self.pack,
                    stage.config.batch,
                    seed=seed,
                    epoch=self.at.epoch,
                    first_step=self.at.step,
                    rows=self._rows(stage),
                )
                for batch in batches:
                    if self.at.global_step == last:
                        self.save()
                        self.ranks.wait()
                        return
                    progress = self._progress(stage)
                    if progress >= 1:
                        break  # its minutes are over
                    for optimizer in self.optimizers.values():
                        optimizer.param_groups[0]["lr"] = learning_rate(stage.config, progress)
                    figures = take_step(
                        stage,
                        batch,
                        self.optimizers,
                        self.ranks,
                        weights=loss_weights(stage.config, progress),
                        number=self.at.global_step,
                        seed=(self.config.seed << 32) + self.at.global_step,
                        micro_batches=self.config.accumulate,
                    )
                    self.average()
                    self.at.step += 1
                    self.at.global_step += 1
                    now = time.monotonic()
                    self.at.seconds, clock = self.ranks.agree(self.at.seconds + now - clock), now
                    monitor.step(stage, self.at.global_step, figures)
                    if time.monotonic() - saved_at > self.checkpoint_every_s:
                        self.save()
                        saved_at = time.monotonic()
                self.at.epoch, self.at.step = self.at.epoch + 1, 0
                monitor.epoch(stage, self.at.epoch, self.at.global_step, stage.end_epoch())
            self.next_stage()
            self.save()
        self.ranks.wait()

    def average(self) -> None:
        """Moves the averages on after a step."""
        for name, network in self.networks.items().items():
            self.averaged[name].update_parameters(network)

    def _progress(self, stage: Stage) -> float:
        per_epoch = steps_per_epoch(self.pack, stage.config.batch)
        steps = self.at.epoch * per_epoch + self.at.step
        return stage_progress(stage.config, steps=steps, steps_per_epoch=per_epoch, seconds=self.at.seconds)

    def averaged_copy(self) -> NetworkSet:
        """The averaged networks as they would be exported, in evaluation mode."""
        networks = self.config.network.networks()
        for name, network in networks.items().items():
            network.load_state_dict(self.averaged[name].module.state_dict())
            network.eval()
        return networks

    def _rows(self, stage: Stage) -> np.ndarray | None:
        """Which faces of a batch this process has."""
        return self.ranks.rows(stage.config.batch, micro_batches=self.config.accumulate, shares=stage.shares)

    def _begin_stage(self) -> None:
        """Modes and fresh optimisers of the stage at hand."""
        if self.at.stage == len(self.stages):
            return
        stage = self.stages[self.at.stage]
        stage.modes()
        self.ranks.refuse_own_statistics(self.networks.items().values())
        self.optimizers = {
            player.name: torch.optim.Adam(
                player.parameters(), lr=stage.config.learning_rate, betas=(0.5, 0.999), fused=True
            )
            for player in stage.players
        }

    def next_stage(self, *, keep_trained: bool = False) -> None:
        """Goes on to the next stage, which starts from the averaged weights of this one."""
        for name, network in self.networks.items().items():
            network.load_state_dict(self.averaged[name].module.state_dict())
        self.at = Position(stage=self.at.stage + 1, global_step=self.at.global_step)
        if self.at.stage < len(self.stages):
            if not keep_trained:
                self.stages[self.at.stage].begin()
            for name, network in self.networks.items().items():
                self.averaged[name].module.load_state_dict(network.state_dict())
                self.averaged[name].n_averaged.zero_()
        self._begin_stage()

    def save(self) -> None:
        """Writes the checkpoint, in the first process."""
        if not self.ranks.first:
            return
        stage = self.stages[self.at.stage] if self.at.stage < len(self.stages) else None
        save_checkpoint(
            self.folder,
            {
                "config": self.config.to_dict(),
                "about": {
                    **self.about,
                    "steps": self.at.global_step,
                    "stage": stage.name if stage else "done",
                },
                "position": dataclasses.asdict(self.at),
                "networks": {n: m.state_dict() for n, m in self.networks.items().items()},
                "averaged": {n: m.module.state_dict() for n, m in self.averaged.items()},
                "n_averaged": {n: int(m.n_averaged) for n, m in self.averaged.items()},
                "optimizers": {n: o.state_dict() for n, o in self.optimizers.items()},
                "stage_state": stage.state() if stage else {},
            },
        )

    def _begin_after(self, other: Path, first_stage: str, keep_trained: bool) -> None:
        state = load_checkpoint(other)
        config = config_from_dict(state["config"])
        if config.system != self.config.system:
            raise CheckpointError(
                f"{other} is a run of the {config.system}, this one of the {self.config.system}; continue "
                "a run of the same system"
            )
        names = [stage.name for stage in self.stages]
        index = names.index(first_stage)
        if state["position"]["stage"] < index:
            raise CheckpointError(
                f"{other} is still in its stage {names[state['position']['stage']]!r}; let it train on until "
                f"{first_stage!r}"
            )
        theirs, ours = config.to_dict()["network"], self.config.to_dict()["network"]
        if theirs != ours:
            raise CheckpointError(f"{other} has networks of another size: {_differences(theirs, ours)}")
        for name, average in self.averaged.items():
            average.module.load_state_dict(state["averaged"][name])
        told = {"run": other.name, "from_stage": first_stage, "keep_trained": keep_trained}
        self.about |= {"continues": {**state["about"], **told}}
        self.at = Position(stage=index - 1)
        self.next_stage(keep_trained=keep_trained)

    def _resume(self) -> None:
        state = load_checkpoint(self.folder)
        if "networks" not in state:
            raise CheckpointError(
                f"{self.folder} holds a slim checkpoint, for export alone; begin another run with --continue"
            )
        # A run that began before there were fingerprints goes on without: its first files are not known.
        given = {k: v for k, v in self.given.items() if k != FIELD or FIELD in state["about"]}
        remembered = {key: state["about"].get(key) for key in given}
        if remembered != given:
            raise CheckpointError(
                f"{self.folder} holds a run that was given something else; use another --out, or the same: "
                f"{_differences(remembered, given)}"
            )
        saved = config_from_dict(state["config"]).to_dict()  # fields it lacks had their defaults
        if saved != self.config.to_dict():
            raise CheckpointError(
                f"{self.folder} holds a run of another configuration; "
                f"use another --out, or the same settings: "
                f"{_differences(saved, self.config.to_dict())}"
            )
        self.at = Position(**state["position"])
        for name, network in self.networks.items().items():
            network.load_state_dict(state["networks"][name])
            self.averaged[name].module.load_state_dict(state["averaged"][name])
            self.averaged[name].n_averaged.fill_(state["n_averaged"][name])
        commits = state["about"]["commits"]
        self.about = {**state["about"], "commits": [*commits, *(set(self.about["commits"]) - set(commits))]}
        self._begin_stage()
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        if self.at.stage < len(self.stages):
            self.stages[self.at.stage].restore(state["stage_state"])
        if self.ranks.first:
            logger.info("resumed at stage %d, epoch %d, step %d", self.at.stage, self.at.epoch, self.at.step)


def _differences(saved: dict[str, Any], wanted: dict[str, Any]) -> str:
    def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
        if not isinstance(node, dict):
            return {prefix: node}
        return {k: v for key, child in node.items() for k, v in flatten(child, f"{prefix}.{key}").items()}

    old, new = flatten(saved), flatten(wanted)
    return ", ".join(
        f"{key.lstrip('.')} was {old.get(key)!r}, is {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    )
