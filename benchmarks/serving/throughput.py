"""``benchmarks.serving throughput``: what fused batches gain, against peers, from 1 to 64 requests at a time.

All servers run the same network of the same bundle on the same backend and threads, and are measured in turns
with the same load generator. What idles takes no time from what is measured.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from runtime.backends import create_backend
from runtime.backends.lanes import IN_LANES, create_for_batches
from runtime.manifest import open_bundle
from runtime.serving.settings import DEFAULT_ENVIRONMENT, SERVER_BACKENDS
from runtime.shipped import default_bundle

from ..common import about_bundle, as_click_errors, environment
from ..schema import write_result
from .perf_analyzer import Load, find, measure
from .served import BACKENDS, Running, Server, backends_of, model_of, running

CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64)
# Requests of one measurement: at least this many, and this many of every client.
REQUESTS, ROUNDS_OF_A_CLIENT = 150, 12
# Batches of the network alone, and how many faces of each are measured in a round, at least four times.
BATCHES, FACES_ALONE = (1, 2, 4, 8, 16, 32), 40

COMPARISONS = ("peers", "knobs", "split")
FUSED, SINGLE, PLAIN = "fused batches", "batching off", "FastAPI"


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="A public one.  [default: the shipped one]")
@click.option(
    "--environment",
    "venv",
    type=click.Path(path_type=Path),
    default=DEFAULT_ENVIRONMENT,
    show_default=True,
    help="The wheel's, with the load generator; see serve-env and make bench-env.",
)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    type=click.Choice(SERVER_BACKENDS),
    help=f"[default: {', '.join(BACKENDS)}; of an anonymiser those in float32]",
)
@click.option("--concurrency", "levels", multiple=True, type=click.IntRange(min=1), default=CONCURRENCIES)
@click.option("--threads", default=2, show_default=True, type=click.IntRange(min=1))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--compare", type=click.Choice(COMPARISONS), default="peers", show_default=True)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="JSON file to write.")
def command(
    bundle: Path | None,
    venv: Path,
    backends: tuple[str, ...],
    levels: tuple[int, ...],
    threads: int,
    rounds: int,
    compare: str,
    out: Path,
) -> None:
    """Measures throughput and latency of running servers, in turns."""
    with as_click_errors():
        folder = bundle or default_bundle("public")
        manifest = open_bundle(folder).manifest
        program = find(venv)
        result: dict[str, Any] = {
            "benchmark": "serving",
            "environment": environment(),
            "bundle": about_bundle(open_bundle(folder), model_of(manifest)),
            "settings": {"threads": threads, "rounds": rounds, "faces_per_request": 1, "compare": compare},
            "rows": [],
            "network_ms_per_face": {},
        }
        for backend in backends_of(manifest, backends):
            servers = {"peers": peers, "knobs": knobs, "split": split}[compare](backend, threads)
            alone: list[dict[str, dict[str, float]]] = []
            loads: dict[tuple[Server, int], list[tuple[Load, float]]] = {}
            with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
                answering = [
                    stack.enter_context(running(server, folder, venv, Path(scratch) / str(i)))
                    for i, server in enumerate(servers)
                ]
                for _ in range(rounds):
                    alone.append(network_ms_per_face(folder, backend, threads))
                    for level in levels:
                        for one in answering:
                            loads.setdefault((one.server, level), []).append(load(program, one, level))
            result["network_ms_per_face"][backend] = {
                way: {batch: median(one[way][batch] for one in alone) for batch in alone[0][way]}
                for way in alone[0]
            }
            result["rows"] += [row_of(server, taken) for (server, _), taken in loads.items()]
    write_result(result, out)
    show(result)


def peers(backend: str, threads: int) -> list[Server]:
    """What is compared: one and the same network behind three servers."""
    common: dict[str, Any] = {"backend": backend, "threads": threads}
    return [
        Server(name=FUSED, **common),
        Server(name=SINGLE, fused=False, **common),
        Server(name=PLAIN, kind="plain", **common),
    ]


def knobs(backend: str, threads: int) -> list[Server]:
    """The knobs of fused batching: waits, preferred sizes, a bounded queue, more instances."""
    common: dict[str, Any] = {"backend": backend, "threads": threads}
    return [
        Server(name="as shipped", **common),
        Server(name="waits 500 us", delay_us=500, **common),
        Server(name="waits 2 ms for 8", delay_us=2000, preferred=(8,), **common),
        Server(name="queue bounded at 64", max_queue=64, **common),
        Server(name="2 instances", instances=2, **common),
        Server(name=f"{threads} instances of 1 thread", backend=backend, threads=1, instances=threads),
    ]


def split(backend: str, threads: int) -> list[Server]:
    """Fusing on and off: as shipped, past the door, and with an instance for every core."""
    shipped: dict[str, Any] = {"backend": backend, "threads": threads}
    divided: dict[str, Any] = {"backend": backend, "threads": 1, "instances": threads}
    return [
        Server(name=f"{name}{suffix}", fused=fused, **settings)
        for name, settings in (
            ("as shipped", shipped),
            ("past the door", {**shipped, "door": False}),
            (f"{threads} instances of 1 thread", divided),
        )
        for suffix, fused in (("", True), (", batching off", False))
    ]


def network_ms_per_face(bundle: Path, backend: str, threads: int) -> dict[str, dict[str, float]]:
    """Median times of the network without any server: what fusing can gain at most.

    Returns:
        Milliseconds of a face by way and batch: all threads ``together`` on every operation, and in ``lanes``
        where a server runs batches so.
    """
    opened = open_bundle(bundle)
    name = model_of(opened.manifest)
    entry, model = opened.manifest.models[name], opened.read(name)
    ways = {"together": create_backend, **({"lanes": create_for_batches} if backend in IN_LANES else {})}
    found: dict[str, dict[str, float]] = {}
    for way, create in ways.items():
        with create(backend, model, threads=threads) as network:
            found[way] = {}
            for batch in BATCHES:
                inputs = {spec.name: np.zeros((batch, *spec.shape[1:]), spec.dtype) for spec in entry.inputs}
                times_ms = []
                network.run(inputs)
                for _ in range(max(FACES_ALONE // batch, 4)):
                    start = time.perf_counter()
                    network.run(inputs)
                    times_ms.append(1e3 * (time.perf_counter() - start) / batch)
                found[way][str(batch)] = median(times_ms)
    return found


def load(program: Path, running: Running, concurrency: int) -> tuple[Load, float]:
    """One measurement, and how many faces an execution of the network had on average."""
    faces, executions = running.counts()
    measured = measure(
        program,
        url=running.url,
        protocol=running.protocol,
        model=running.model,
        faces=1,
        concurrency=concurrency,
        requests=max(REQUESTS, ROUNDS_OF_A_CLIENT * concurrency),
    )
    faces_after, executions_after = running.counts()
    return measured, (faces_after - faces) / max(executions_after - executions, 1)


def row_of(server: Server, taken: Sequence[tuple[Load, float]]) -> dict[str, Any]:
    """Medians over the rounds, and the range of the throughput."""
    loads = [one for one, _ in taken]

    def middle(values: list[Mapping[str, float]]) -> dict[str, float]:
        return {name: median(value[name] for value in values) for name in values[0]}

    rates = [one.requests_per_s for one in loads]
    return {
        "server": server.name,
        "kind": server.kind,
        "backend": server.backend,
        "threads": server.threads,
        "instances": server.instances,
        "delay_us": server.delay_us,
        "preferred": None if server.preferred is None else list(server.preferred),
        "max_queue": server.max_queue,
        "door": server.door,
        "concurrency": loads[0].concurrency,
        "faces_per_s": median(rates),
        "faces_per_s_range": [min(rates), max(rates)],
        "client_ms": middle([one.client_ms for one in loads]),
        "server_ms": middle([one.server_ms for one in loads]),
        "mean_batch": median(batch for _, batch in taken),
        "rounds": len(taken),
    }


def show(result: dict[str, Any]) -> None:
    """Prints tables for every backend."""
    for backend, ways in result["network_ms_per_face"].items():
        for way, by_batch in ways.items():
            times = ", ".join(f"{batch}: {ms:.2f}" for batch, ms in by_batch.items())
            click.echo(f"{backend}, network alone, {way}, ms of a face by batch: {times}")
        table = Table(title=backend)
        columns = ("server", "at a time", "faces/s", "range", "batch", "p50", "p90", "p95", "p99", "queue ms")
        for column in columns:
            table.add_column(column, justify="left" if column == "server" else "right")
        for row in result["rows"]:
            if row["backend"] != backend:
                continue
            low, high = row["faces_per_s_range"]
            client = row["client_ms"]
            table.add_row(
                row["server"],
                str(row["concurrency"]),
                f"{row['faces_per_s']:.1f}",
                f"{low:.1f}-{high:.1f}",
                f"{row['mean_batch']:.2f}",
                *(f"{client[name]:.1f}" for name in ("p50", "p90", "p95", "p99")),
                f"{row['server_ms'].get('queue', 0.0):.1f}",
            )
        Console(width=130).print(table)
