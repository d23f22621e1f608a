"""What a run would take, from a few steps of its own stages on random faces; nothing is kept."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .batches import take
from .config import AnonymiserConfig, RunConfig, SharedConfig, StageConfig
from .data.errors import DataError
from .loop import Run
from .parts import Part, time_parts
from .perceptual import Lpips
from .probe import clock, device_name, first_batch, matrix_rate, peak_bytes, random_faces
from .ranks import Ranks
from .stages import Stage
from .stages.publish import Publish
from .step import take_step
from .surrogates import Recognizer, RecognizerCard
from .tasks import AnonymiserTask, MaskTask, Task

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
STAND_INS = 2


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """What one stage takes.

    Attributes:
        trained: parameters.
        frozen: parameters of everything else that the stage runs or keeps.
        flops_per_face: of a step, counted in convolutions and matrix products: forward, backward and, in
            the attack, through the meta step, averaged over the steps between two meta steps.
        state_bytes: weights, moving averages, gradients and optimiser, counted.
        probe_batch: faces a step of the measurement.
        probe_bytes: by how much such a step raised the memory in use, measured.
        faces_per_s: measured.
    """

    name: str
    config: StageConfig
    steps_per_epoch: int
    trained: int
    frozen: int
    flops_per_face: float
    state_bytes: int
    probe_batch: int
    probe_bytes: int
    faces_per_s: float

    @property
    def steps(self) -> int:
        """Of all epochs."""
        return self.config.epochs * self.steps_per_epoch

    @property
    def memory_bytes(self) -> float:
        """State, and what the probe's step took scaled to the batch."""
        return self.state_bytes + self.probe_bytes * self.config.batch / self.probe_batch

    @property
    def seconds(self) -> float:
        """Of training alone, at the measured speed; no more than the stage's minutes."""
        needed = self.steps * self.config.batch / self.faces_per_s
        return needed if self.config.minutes is None else min(needed, 60 * self.config.minutes)

    @property
    def epochs(self) -> float:
        """As many as the seconds give."""
        return self.seconds * self.faces_per_s / (self.steps_per_epoch * self.config.batch)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run takes.

    Attributes:
        faces: to train on.
        recognizers: names of those counted; none where stand-ins that cost nothing took their place.
        rates: FLOP/s of large matrix products by precision, measured.
        parts: networks of a step alone, measured; the recognisers that are counted among them.
    """

    config: SharedConfig
    device: str
    faces: int
    recognizers: tuple[str, ...]
    rates: dict[str, float]
    parts: tuple[Part, ...]
    stages: tuple[StagePlan, ...]

    def share(self, stage: StagePlan) -> float:
        """Of the matrix rate in the run's precision that a stage reaches."""
        return stage.flops_per_face * stage.faces_per_s / self.rates[self.config.precision]


def make_plan(
    config: SharedConfig,
    recognizers: Sequence[Recognizer],
    *,
    faces: int,
    ranks: Ranks,
    seconds_per_stage: float = 16.0,
) -> Plan:
    """Runs a few steps of each stage.

    Args:
        recognizers: the surrogates; without any, two that cost nothing take their place.
        faces: how many there are to train on; the steps themselves see random ones.
        ranks: of one process; its device is measured.
        seconds_per_stage: about how long to measure.

    Raises:
        DataError: there are fewer faces than in a batch.
        ScaleError: a batch cannot be divided into micro-batches.
        SurrogateError: there is one recogniser alone, which the mask cannot do with.
        ValueError: the stages' settings do not go together.
    """
    most = max(stage.batch for stage in config.stage_configs().values())
    if faces < most:
        raise DataError(f"expected at least one batch of {most} faces, found {faces}")
    device = ranks.device
    networks = config.network.networks().placed(ranks.place)
    taking_part = list(recognizers) or [_stand_in(i) for i in range(STAND_INS)]
    cast = _cast(config, taking_part, device)
    stages = cast.task.stages(networks, ranks)
    noise = random_faces(most, config.network.image_size, cast.n_attributes)
    with tempfile.TemporaryDirectory() as folder:  # a run wants one; it is never saved
        run = Run(Path(folder), config, networks, stages, noise, {}, ranks=ranks)
        plans = []
        for stage in stages:
            plans.append(_probe(run, stage, cast, faces, seconds_per_stage))
            run.next_stage()
    return Plan(
        config=config,
        device=device_name(device),
        faces=faces,
        recognizers=tuple(recognizer.card.name for recognizer in recognizers),
        parts=time_parts(
            config.network, recognizers, cast.perceptual, device, seconds_per_part=seconds_per_stage / 16
        ),
        rates={name: matrix_rate(device, dtype) for name, dtype in DTYPES.items()},
        stages=tuple(plans),
    )


@dataclass(frozen=True, kw_only=True)
class _Cast:
    """Who takes part in a system's run beside its networks.

    Attributes:
        helpers: frozen networks that each stage runs, by its name.
        cycles: steps from one meta step to the next, of stages that have any.
        perceptual: LPIPS, with random weights, where the system trains for it.
    """

    task: Task
    helpers: dict[str, list[nn.Module]]
    cycles: dict[str, int]
    perceptual: Lpips | None
    n_attributes: int

    @property
    def kept(self) -> list[nn.Module]:
        """The frozen networks in memory: each stage's are among those of the one with most."""
        return max(self.helpers.values(), key=len)


def _cast(config: SharedConfig, taking_part: Sequence[Recognizer], device: torch.device) -> _Cast:
    """The helpers of a configuration, where they take part."""
    for recognizer in taking_part:
        recognizer.to(device)
    if isinstance(config, AnonymiserConfig):
        return _Cast(
            task=AnonymiserTask(config, taking_part),
            helpers={"anonymise": list(taking_part)},
            cycles={},
            perceptual=None,
            n_attributes=1,
        )
    assert isinstance(config, RunConfig)
    wants_lpips = "lpips" in config.attack.weights
    perceptual = Lpips("alex", random=True).to(device) if wants_lpips else None
    erasers = list(taking_part) if {"identity", "release"} & config.erasure.weights.keys() else []
    return _Cast(
        task=MaskTask(
            config,
            taking_part,
            [_some_target(recognizer, device) for recognizer in taking_part],
            perceptual,
            Publish(config.network.image_size, masked=config.paste_mask),
            {},
        ),
        helpers={
            "attributes": [],
            "attack": [*taking_part, *([perceptual] if perceptual else [])],
            "erasure": [*erasers],
        },
        cycles={"attack": max(config.attack_settings.meta_every, 1)},
        perceptual=perceptual,
        n_attributes=config.network.n_attributes,
    )


def _probe(run: Run, stage: Stage, cast: _Cast, faces: int, seconds: float) -> StagePlan:
    """Counts and measures the stage that the run is at, with as large a batch as the time allows."""
    device = run.ranks.device
    cycle, helpers = cast.cycles.get(stage.name, 1), cast.helpers[stage.name]
    micro_batches = run.config.accumulate
    shares = stage.shares  # as in the whole batch, each surrogate has as many faces as the others
    least = 2 * max(1, len(helpers))  # two faces for each surrogate
    size = min(stage.config.batch, micro_batches * shares * ceil(least / shares))

    def cycle_s() -> float:
        started = clock(device)
        _steps(run, stage, cycle, size)
        return clock(device) - started

    with FlopCounterMode(display=False) as counter:
        cycle_s()  # the optimisers make their state here: it is no part of the peak
    flops_per_face = counter.get_total_flops() / (cycle * size)
    while size < stage.config.batch and cycle_s() < seconds / 6:
        size = min(4 * size, stage.config.batch)
    peak = peak_bytes(cycle_s, device)  # the first cycle of a size is slow: it is not timed
    elapsed_s = [cycle_s()]
    while sum(elapsed_s) < seconds / 3:
        elapsed_s.append(cycle_s())

    trained = [parameter for player in stage.players for parameter in player.parameters()]
    present = [*run.networks.items().values(), *helpers]
    parameters = [parameter for module in present for parameter in module.parameters()]
    return StagePlan(
        name=stage.name,
        config=stage.config,
        steps_per_epoch=faces // stage.config.batch,
        trained=_count(trained),
        frozen=_count(parameters) - _count(trained),
        flops_per_face=flops_per_face,
        state_bytes=_state_bytes(run, cast.kept, trained),
        probe_batch=size,
        probe_bytes=peak,
        faces_per_s=cycle * size / median(elapsed_s),
    )


def _state_bytes(run: Run, kept: Sequence[nn.Module], trained: Sequence[Tensor]) -> int:
    """Networks, their moving averages, recognisers, one gradient for what trains, and the optimisers."""
    modules = (*run.networks.items().values(), *run.averaged.values(), *kept)
    weights = [tensor for module in modules for tensor in module.state_dict().values()]
    optimizers = [
        value
        for optimizer in run.optimizers.values()
        for state in optimizer.state.values()
        for value in state.values()
    ]
    return sum(t.numel() * t.element_size() for t in (*weights, *trained, *optimizers))


def _steps(run: Run, stage: Stage, cycle: int, size: int) -> None:
    """The loop's steps from one meta step to the next, the faces' way from the pack included."""
    micro_batches = run.config.accumulate
    rows = run.ranks.rows(size, micro_batches=micro_batches, shares=stage.shares)
    for step in range(cycle):
        batch = take(run.pack, np.arange(size), np.arange(size) % 2 == 1, rows)
        take_step(
            stage,
            batch,
            run.optimizers,
            run.ranks,
            weights=stage.config.weights,
            number=step,
            seed=step,
            micro_batches=micro_batches,
        )
        run.average()


def _stand_in(number: int) -> Recognizer:
    """Averages the face over a coarse grid: an embedding without convolutions or matrix products."""
    card = RecognizerCard(
        name=f"stand-in {number + 1}",
        path=Path(),
        role="white-box",
        size_hw=(112, 112),
        box=(0.0, 0.0, 112.0, 112.0),
        thresholds={},
    )
    return Recognizer(card, nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten()))


def _some_target(recognizer: Recognizer, device: torch.device) -> Tensor:
    """The unit-norm embedding of noise, for the embedding's length."""
    noise = first_batch(random_faces(1, 112, 1), 1)
    with torch.no_grad():
        return recognizer(noise.face.to(device), recognizer.sampling_grid(noise.landmarks, 112).to(device))[0]


def _count(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)
