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
from .config import RunConfig, StageConfig
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
from .tasks import make_stages

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

    config: RunConfig
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
    config: RunConfig,
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
        SurrogateError: there is one recogniser alone.
        ValueError: the stages' settings do not go together.
    """
    most = max(config.attributes.batch, config.attack.batch, config.erasure.batch)
    if faces < most:
        raise DataError(f"expected at least one batch of {most} faces, found {faces}")
    device = ranks.device
    networks = config.network.networks().placed(ranks.place)
    taking_part = list(recognizers) or [_stand_in(i) for i in range(STAND_INS)]
    perceptual = Lpips("alex", random=True) if "lpips" in config.attack.weights else None
    helpers: dict[str, list[nn.Module]] = {
        "attributes": [],
        "attack": [*taking_part, *([perceptual] if perceptual else [])],
        "erasure": list(taking_part) if {"identity", "release"} & config.erasure.weights.keys() else [],
    }
    for module in helpers["attack"]:
        module.to(device)
    stages = make_stages(
        config,
        networks,
        taking_part,
        [_some_target(recognizer, device) for recognizer in taking_part],
        Publish(config.network.image_size, masked=config.paste_mask),
        perceptual,
        ranks,
    )
    noise = random_faces(most, config.network.image_size, config.network.n_attributes)
    with tempfile.TemporaryDirectory() as folder:  # a run wants one; it is never saved
        run = Run(Path(folder), config, networks, stages, noise, {}, ranks=ranks)
        plans = []
        for stage in stages:
            cycle = max(config.attack_settings.meta_every, 1) if stage.name == "attack" else 1
            plans.append(
                _probe(run, stage, cycle, helpers[stage.name], helpers["attack"], faces, seconds_per_stage)
            )
            run.next_stage()
    return Plan(
        config=config,
        device=device_name(device),
        faces=faces,
        recognizers=tuple(recognizer.card.name for recognizer in recognizers),
        parts=time_parts(
            config.network, recognizers, perceptual, device, seconds_per_part=seconds_per_stage / 16
        ),
        rates={name: matrix_rate(device, dtype) for name, dtype in DTYPES.items()},
        stages=tuple(plans),
    )


def _probe(
    run: Run,
    stage: Stage,
    cycle: int,
    helpers: Sequence[nn.Module],
    kept: Sequence[nn.Module],
    faces: int,
    seconds: float,
) -> StagePlan:
    """Counts and measures the stage that the run is at, with as large a batch as the time allows.

    Args:
        cycle: steps from one meta step to the next.
        helpers: frozen networks that the stage runs.
        kept: those in memory.
    """
    device = run.ranks.device
    micro_batches = run.config.accumulate
    shares = stage.shares if micro_batches > 1 else 1
    least = max(2, len(helpers))  # a face for each surrogate
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
        state_bytes=_state_bytes(run, kept, trained),
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
