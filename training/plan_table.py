"""A plan as a table: each line says how its figures were come by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .config import RunConfig
from .plan import Plan, StagePlan

GIB = 2**30


def plan_table(plan: Plan, faces_from: str) -> RenderableType:
    """The table and its notes.

    Args:
        faces_from: where the number of faces was taken from.
    """
    config = plan.config
    table = Table(
        title=f"{config.name}: {plan.faces} faces of {config.network.image_size} px, {config.precision}"
    )
    table.add_column("", no_wrap=True)
    table.add_column("how", style="dim")
    for stage in plan.stages:
        table.add_column(stage.name, justify="right")

    def row(title: str, how: str, figure: Callable[[StagePlan], str]) -> None:
        table.add_row(title, how, *(figure(stage) for stage in plan.stages))

    row("parameters trained", "counted", lambda s: f"{s.trained / 1e6:.2f} M")
    row("parameters frozen", "counted", lambda s: f"{s.frozen / 1e6:.2f} M")
    row("faces a step", "preset", lambda s: f"{s.config.batch}")
    row("epochs x steps", "preset", lambda s: f"{s.config.epochs} x {s.steps_per_epoch}")
    row("FLOPs a face", "counted", lambda s: f"{s.flops_per_face / 1e9:.1f} G")
    row("FLOPs a step", "counted", lambda s: f"{s.flops_per_face * s.config.batch / 1e12:.3g} T")
    row("faces a measured step", "chosen", lambda s: f"{s.probe_batch}")
    row("its peak of memory", "measured", lambda s: f"{s.probe_bytes / GIB:.2f} GiB")
    row("weights and optimiser", "counted", lambda s: f"{s.state_bytes / GIB:.2f} GiB")
    row("memory", "estimated", lambda s: f"{s.memory_bytes / GIB:.2f} GiB")
    row("faces a second", "measured", lambda s: f"{s.faces_per_s:.3g}")
    row(f"of the {config.precision} rate", "measured", lambda s: f"{plan.share(s):.1%}")
    row("time", "estimated", _time)
    if any(stage.config.minutes for stage in plan.stages):
        row("epochs in that time", "estimated", lambda s: f"{s.epochs:.3g}")
    return Group(table, _parts_table(plan), *(Text(note) for note in _notes(plan, faces_from)))


def plan_figures(plan: Plan) -> dict[str, Any]:
    """The plan as JSON-like figures: what the table shows, unrounded, and the configuration."""
    return {
        "config": plan.config.to_dict(),
        "device": plan.device,
        "faces": plan.faces,
        "recognizers": plan.recognizers,
        "matrix_flops_per_s": plan.rates,
        "parts_ms_per_face": {part.name: part.ms_per_face for part in plan.parts},
        "stages": {
            stage.name: {
                "trained": stage.trained,
                "frozen": stage.frozen,
                "steps": stage.steps,
                "flops_per_face": stage.flops_per_face,
                "memory_bytes": stage.memory_bytes,
                "faces_per_s": stage.faces_per_s,
                "ms_per_face": 1000 / stage.faces_per_s,
                "share_of_matrix_rate": plan.share(stage),
                "seconds": stage.seconds,
            }
            for stage in plan.stages
        },
    }


def _parts_table(plan: Plan) -> Table:
    table = Table(title="networks alone, forward and back, measured")
    table.add_column("")
    table.add_column("ms a face", justify="right")
    for part in plan.parts:
        table.add_row(part.name, f"{part.ms_per_face:.1f}")
    return table


def _time(stage: StagePlan) -> str:
    bound = stage.config.minutes is not None and stage.seconds == 60 * stage.config.minutes
    return _duration(stage.seconds) + (" (limit)" if bound else "")


def _notes(plan: Plan, faces_from: str) -> list[str]:
    total = sum(stage.seconds for stage in plan.stages)
    rates = ", ".join(f"{name} {rate / 1e12:.3g} TFLOP/s" for name, rate in plan.rates.items())
    where = "Stages 2 and 3" if isinstance(plan.config, RunConfig) else "Steps"
    recognizers = (
        f"{where} count the recognisers {', '.join(plan.recognizers)}."
        if plan.recognizers
        else f"{where} need recognisers (--surrogates): without them only the other networks are counted and "
        "timed, so expect more."
    )
    return [
        f"Total, estimated: {_duration(total)}, without preparing faces, samples and checkpoints.",
        f"{plan.device}; large matrix products, measured: {rates}.",
        f"Faces: {plan.faces} {faces_from}.",
        recognizers,
        "FLOPs are those of convolutions and matrix products, a multiply-add being two, forward and back, "
        "averaged from one meta step to the next. Warps, noise and normalisation are not among them.",
        "The steps saw random faces. Memory scales the measured step's peak to the batch and adds the state; "
        "PyTorch and its libraries are not among it.",
    ]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
