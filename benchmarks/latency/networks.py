"""``benchmarks.latency networks``: how fast every program of the networks is, and how near to the floor.

All programs run in one process and in turns, so that what else the machine does meets all of them. The floor
is what the multiplications alone would take at the rate that this machine reaches on large bfloat16 matrices,
measured in the same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from export.faces import FacesU8, anonymise_inputs, inputs_of, load_faces
from export.run import Part, load_anonymiser_run, load_run
from training.checkpoint import load_system
from training.probe import matrix_rate

from ..common import as_click_errors, environment
from ..schema import write_result
from .programs import REFERENCE, Inputs, Program, programs_of

NETWORKS = ("protect", "restore")
CALIBRATION_FACES = 128

# A library's threads go on spinning for a while after its last call, and would take the cores from the next.
SETTLE_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A run's networks, of either system.

    Attributes:
        name: of its configuration.
        steps: trained; None where nobody knows.
        image_size: side of a face.
        parts: those that are timed.
        inputs: of a part, for some faces.
    """

    name: str
    steps: int | None
    image_size: int
    parts: tuple[Part, ...]
    inputs: Callable[[Part, FacesU8], Inputs]

    @classmethod
    def load(cls, folder: Path, *, unfinished: bool = False) -> Subject:
        """Reads a run.

        Raises:
            CheckpointError, ExportError: as of ``export.run.load_run``.
        """
        if load_system(folder)[0].system == "anonymiser":
            anonymiser = load_anonymiser_run(folder, unfinished=unfinished)
            network = anonymiser.config.network
            return cls(
                name=anonymiser.config.name,
                steps=anonymiser.about.get("steps"),
                image_size=network.image_size,
                parts=(anonymiser.part,),
                inputs=lambda part, faces: anonymise_inputs(faces, network.cells),
            )
        run = load_run(folder, unfinished=unfinished)
        return cls(
            name=run.config.name,
            steps=run.about.get("steps"),
            image_size=run.config.network.image_size,
            parts=tuple(part for part in run.parts if part.name in NETWORKS),
            inputs=lambda part, faces: inputs_of(part.name, faces, len(run.attributes)),
        )


@click.command()
@click.option("--run", "folder", required=True, type=click.Path(path_type=Path, exists=True), help="A run.")
@click.option(
    "--faces",
    required=True,
    type=click.Path(path_type=Path, exists=True),
    help="Aligned faces: crops.npy, or a folder.",
)
@click.option(
    "--batch", "batches", multiple=True, type=click.IntRange(min=1), default=(1, 8), show_default=True
)
@click.option("--only", multiple=True, metavar="TEXT", help="Programs whose names hold this; repeatable.")
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(min=3))
@click.option("--calls", default=5, show_default=True, help="Timed calls of a program in a round.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(min=1))
@click.option("--device", default="cpu", show_default=True, help="Where PyTorch runs: cpu or cuda.")
@click.option("--unfinished", is_flag=True, help="Take a run whose training is not over.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="JSON file to write.")
def command(
    folder: Path,
    faces: Path,
    batches: tuple[int, ...],
    only: tuple[str, ...],
    rounds: int,
    calls: int,
    threads: int,
    device: str,
    unfinished: bool,
    out: Path,
) -> None:
    """Times the networks of a run, of either system, in every library, precision and form."""
    torch.set_num_threads(threads)
    where = torch.device(device)
    with as_click_errors():
        run = Subject.load(folder, unfinished=unfinished)
        crops = load_faces(faces, run.image_size, CALIBRATION_FACES + max(batches))
    rates: dict[str, float] = {}
    result: dict[str, Any] = {
        "benchmark": "latency",
        "environment": environment(),
        "run": {"name": run.name, "steps": run.steps},
        "settings": {"rounds": rounds, "calls": calls, "threads": threads, "device": device},
        "matrix_rate_flops": rates,
        "networks": {},
    }
    for part in run.parts:
        inputs = run.inputs(part, crops)
        rest = {name: values[max(batches) :] for name, values in inputs.items()}
        with as_click_errors():
            programs, missing = programs_of(part, inputs, rest, threads=threads, device=where, only=only)
        flops = flops_of(part, inputs)
        keep_fastest(rates, where)
        rows = compare(programs, inputs, batches, rounds=rounds, calls=calls)
        keep_fastest(rates, where)
        result["networks"][part.name] = {"flops_per_face": flops, "missing": missing, "programs": rows}
    for part in run.parts:
        network = result["networks"][part.name]
        rate = rates["fp32" if part.in_float32 else "bf16"]
        network["floor_ms"] = floor_ms = 1e3 * network["flops_per_face"] / rate
        rows = network["programs"]
        network["programs"] = [row | ratios(row, rows, floor_ms) for row in rows]
        show(part.name, network)
    write_result(result, out)


def keep_fastest(rates: dict[str, float], device: torch.device) -> None:
    """Measures the matrix rates once more; a busy moment must not lower the floor's."""
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        rates[name] = max(rates.get(name, 0.0), matrix_rate(device, dtype))


def flops_of(part: Part, inputs: Inputs) -> int:
    """Floating-point operations of one face, counted: two for each multiplication with an addition."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        part.module(*(torch.from_numpy(values[:1]) for values in inputs.values()))
    return counter.get_total_flops()


def compare(
    programs: Sequence[Program], inputs: Inputs, batches: Sequence[int], *, rounds: int, calls: int
) -> list[dict[str, Any]]:
    """Times of all programs, in turns.

    Returns:
        A row a program and batch: median, quartiles, 95th and 99th percentile and least of all calls, in ms a
        face, and how far its output is from the first program's, in levels.
    """
    times: dict[tuple[str, int], list[float]] = {}
    reference: dict[int, NDArray] = {}
    drift: dict[tuple[str, int], tuple[float, float]] = {}
    for turn in range(rounds + 1):  # the first one prepares and is not timed
        for batch in batches:
            part = {name: np.ascontiguousarray(values[:batch]) for name, values in inputs.items()}
            for program in programs:
                time.sleep(SETTLE_S)
                output = program.run(part).astype(np.float64)
                key = program.name, batch
                if turn == 0:
                    difference = np.abs(output - reference.setdefault(batch, output))
                    drift[key] = float(difference.max()), float(difference.mean())
                    continue
                for _ in range(calls):
                    start = time.perf_counter()
                    program.run(part)
                    times.setdefault(key, []).append(1e3 * (time.perf_counter() - start) / batch)
    return [
        {
            "program": name,
            "batch": batch,
            "ms_per_face": float(np.median(taken)),
            "quartiles_ms": [float(q) for q in np.quantile(taken, (0.25, 0.75))],
            "p95_ms": float(np.quantile(taken, 0.95)),
            "p99_ms": float(np.quantile(taken, 0.99)),
            "least_ms": float(min(taken)),
            "calls": len(taken),
            "max_levels": drift[name, batch][0],
            "mean_levels": drift[name, batch][1],
        }
        for (name, batch), taken in times.items()
    ]


def ratios(row: dict[str, Any], rows: Sequence[dict[str, Any]], floor_ms: float) -> dict[str, float]:
    """How many times faster than the reference at the same batch, how many times slower than the floor."""
    (reference,) = (r for r in rows if r["program"] == REFERENCE and r["batch"] == row["batch"])
    return {
        "speedup": reference["ms_per_face"] / row["ms_per_face"],
        "times_floor": row["ms_per_face"] / floor_ms,
    }


def show(network: str, measured: dict[str, Any]) -> None:
    """Prints one network's table, the fastest last."""
    table = Table(
        title=f"{network}: {measured['flops_per_face'] / 1e9:.2f} GFLOP a face, "
        f"floor {measured['floor_ms']:.2f} ms"
    )
    for column in (
        "program",
        "batch",
        "ms a face",
        "quartiles",
        "speed-up",
        "x floor",
        "levels off: max, mean",
    ):
        table.add_column(column, justify="left" if column == "program" else "right")
    for row in sorted(measured["programs"], key=lambda r: (r["batch"], -r["ms_per_face"])):
        low, high = row["quartiles_ms"]
        table.add_row(
            row["program"],
            str(row["batch"]),
            f"{row['ms_per_face']:.2f}",
            f"{low:.2f}-{high:.2f}",
            f"{row['speedup']:.2f}",
            f"{row['times_floor']:.2f}",
            f"{row['max_levels']:.0f}, {row['mean_levels']:.3f}",
        )
    Console(width=130).print(table)
