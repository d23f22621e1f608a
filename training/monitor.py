"""A progress bar, TensorBoard scalars and sample grids of a run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from .loop import Run
from .networks import NetworkSet
from .samples import write_grid
from .schedule import stage_progress
from .stages import Stage

SCALARS_EVERY = 20  # steps
GRID_EVERY_S = 30.0  # at most; epochs may be shorter than a grid takes


class RunMonitor:
    """Shows where a run is and writes ``events``, ``log.jsonl`` and ``samples/`` into its folder.

    Args:
        run: the run to watch; its averaged networks make the samples.
        draw: a grid of samples, ``(3, H, W)`` in [0, 1], from the networks.
        progress: a started rich progress display.
    """

    def __init__(self, run: Run, draw: Callable[[NetworkSet], Tensor], progress: Progress) -> None:
        self.run = run
        self.draw = draw
        self.progress = progress
        self.writer = SummaryWriter(run.folder / "events")
        self.task = progress.add_task("", total=1, losses="")
        self._sums: dict[str, float] = {}
        self._count = 0  # steps since scalars were written
        self._last: tuple[Stage, int] | None = None  # of those steps: its stage, its number in the run
        self._done = self._total = 0  # steps of the stage
        self._drawn_at = -math.inf

    @staticmethod
    def display() -> Progress:
        """The progress display a run uses: stage, bar, steps, time left, the player's losses."""
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
        )

    def begin(self, stage: Stage, total_steps: int, done_steps: int) -> None:
        self._flush()
        self._done, self._total = done_steps, total_steps
        self.progress.reset(
            self.task, total=total_steps, completed=done_steps, description=stage.name, losses=""
        )

    def step(self, stage: Stage, global_step: int, figures: dict[str, float]) -> None:
        self._done += 1
        self.progress.update(self.task, completed=self._done, total=self._expected_steps(stage))
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        self._last = stage, global_step
        if self._count == SCALARS_EVERY:
            self._flush()

    def epoch(self, stage: Stage, epoch: int, global_step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(f"{stage.name}/{name}", value, global_step)
        if time.monotonic() - self._drawn_at < GRID_EVERY_S:
            return
        grid = self.draw(self.run.averaged_copy())
        write_grid(grid, self.run.folder / "samples" / f"{stage.name}-{epoch:03d}.png")
        self.writer.add_image(f"{stage.name}/samples", grid, global_step)
        self.writer.flush()
        self._drawn_at = time.monotonic()

    def _expected_steps(self, stage: Stage) -> int:
        """Of the whole stage: its epochs', or fewer if its minutes give fewer at the speed so far."""
        progress = stage_progress(
            stage.config,
            steps=self._done,
            steps_per_epoch=self._total // stage.config.epochs,
            seconds=self.run.at.seconds,
        )
        return round(self._done / progress)

    def _flush(self) -> None:
        """Writes the means of the steps since the last time, if there are any."""
        if self._last is None:
            return
        stage, global_step = self._last
        means = {name: total / self._count for name, total in self._sums.items()}
        for name, value in means.items():
            self.writer.add_scalar(f"{stage.name}/{name}", value, global_step)
        line = {"stage": stage.name, "step": global_step, **{k: round(v, 5) for k, v in means.items()}}
        with (self.run.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        shown = {k: v for k, v in means.items() if stage.config.weights.get(k)}
        self.progress.update(self.task, losses=" ".join(f"{k} {v:.3g}" for k, v in shown.items()))
        self._sums, self._count, self._last = {}, 0, None

    def close(self) -> None:
        """Ends the log files, with what was not written yet."""
        self._flush()
        self.writer.close()


class Unwatched:
    """The monitor of processes beside the first: it shows and writes nothing."""

    def begin(self, stage: Stage, total_steps: int, done_steps: int) -> None: ...
    def step(self, stage: Stage, global_step: int, figures: dict[str, float]) -> None: ...
    def epoch(self, stage: Stage, epoch: int, global_step: int, figures: dict[str, float]) -> None: ...


def fixed_threads(threads: int | None) -> None:
    """Sets torch's CPU threads and flushes denormal numbers, which slow CPUs ten- to thirtyfold."""
    if threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
