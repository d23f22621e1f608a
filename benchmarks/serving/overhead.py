"""``benchmarks.serving overhead``: where the time of one face goes that its network does not take.

One request after the other, on each path in turns: the difference of two paths is what the longer one has on
its way.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from runtime.backends import create_backend
from runtime.backends.base import Tensors
from runtime.backends.triton import TritonServer
from runtime.backends.triton_wire import DATA_TYPES
from runtime.manifest import open_bundle
from runtime.serving.grpc_options import SERVICE
from runtime.serving.settings import DEFAULT_ENVIRONMENT, SERVER_BACKENDS
from runtime.shipped import default_bundle

from ..common import about_bundle, as_click_errors, environment
from ..schema import write_result
from .inside import Inside
from .served import BACKENDS, Running, Server, backends_of, model_of, running, upstream_url

# The network in this process: in a row, and with pauses as long as those between requests to a server.
STEADY, PAUSED = "network alone", "network alone, with pauses"
# Bytes made beforehand, to Triton's own port and to the door's; then our client, which makes and reads them.
TRITON, DOOR, CLIENT, MEMORY = "Triton", "door", "client", "client, shared memory"


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="A public one.  [default: the shipped one]")
@click.option(
    "--environment", "venv", type=click.Path(path_type=Path), default=DEFAULT_ENVIRONMENT, show_default=True
)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    type=click.Choice(SERVER_BACKENDS),
    help=f"[default: {', '.join(BACKENDS)}; of an anonymiser those in float32]",
)
@click.option("--threads", default=2, show_default=True, type=click.IntRange(min=1))
@click.option("--requests", default=100, show_default=True, type=click.IntRange(min=1), help="In a round.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="JSON file to write.")
def command(
    bundle: Path | None,
    venv: Path,
    backends: tuple[str, ...],
    threads: int,
    requests: int,
    rounds: int,
    out: Path,
) -> None:
    """Measures one face on its way through client, door, Triton and the network's process."""
    folder = bundle or default_bundle("public")
    with as_click_errors():
        opened = open_bundle(folder)
    result: dict[str, Any] = {
        "benchmark": "serving overhead",
        "environment": environment(),
        "bundle": about_bundle(opened, model_of(opened.manifest)),
        "settings": {"threads": threads, "requests": requests, "rounds": rounds},
        "rows": [],
    }
    with as_click_errors():
        for backend in backends_of(opened.manifest, backends):
            server = Server(name="overhead", backend=backend, threads=threads)
            result["rows"] += measured(folder, venv, server, requests, rounds)
    write_result(result, out)
    show(result)


def measured(bundle: Path, venv: Path, server: Server, requests: int, rounds: int) -> list[dict[str, Any]]:
    """A row for every path, of all its rounds."""
    taken: dict[str, list[Round]] = {}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        answering = stack.enter_context(
            running(server, bundle, venv, Path(scratch) / "server", watched=True, shared_memory=True)
        )
        inside = Inside(answering)
        paths = stack.enter_context(_paths(bundle, answering))
        for _ in range(rounds):
            for name, ask in paths.items():
                served = name not in (STEADY, PAUSED)
                if served:
                    inside.begin(ask)
                times_ms = _timed(ask, requests, _pause_s(taken) if name == PAUSED else 0.0)
                phases_ms = inside.end(ask) if served else {}
                taken.setdefault(name, []).append(Round(times_ms=times_ms, phases_ms=phases_ms))
    return [row_of(server.backend, name, found) for name, found in taken.items()]


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one round of a path gave.

    Attributes:
        times_ms: of every request.
        phases_ms: means inside the server, by phase; empty without a server.
    """

    times_ms: Sequence[float]
    phases_ms: Mapping[str, float]

    @property
    def overhead_ms(self) -> float:
        """Mean time of a request less the mean time that the network took for it in the server."""
        return mean(self.times_ms) - self.phases_ms["compute"]


def row_of(backend: str, path: str, rounds: Sequence[Round]) -> dict[str, Any]:
    """Quantiles over all requests, and medians over the rounds of what is a mean in each."""
    times_ms = [one for taken in rounds for one in taken.times_ms]
    row = {
        "backend": backend,
        "path": path,
        "requests": len(times_ms),
        "p50_ms": median(times_ms),
        "p95_ms": float(np.quantile(times_ms, 0.95)),
    }
    if not rounds[0].phases_ms:
        return row
    return {
        **row,
        "overhead_ms": median(one.overhead_ms for one in rounds),
        "phases_ms": {name: median(one.phases_ms[name] for one in rounds) for name in rounds[0].phases_ms},
    }


def _timed(ask: Callable[[], Any], requests: int, pause_s: float) -> list[float]:
    times_ms = []
    ask()
    for _ in range(requests):
        time.sleep(pause_s)
        start = time.perf_counter()
        ask()
        times_ms.append(1e3 * (time.perf_counter() - start))
    return times_ms


def _pause_s(taken: Mapping[str, Sequence[Round]]) -> float:
    """How long the network rests between two requests through the door."""
    return max(taken[DOOR][-1].overhead_ms, 0.0) / 1e3


@contextmanager
def _paths(bundle: Path, answering: Running) -> Iterator[dict[str, Callable[[], Any]]]:
    """Each asks once for one black face."""
    import grpc

    opened, model = open_bundle(bundle), answering.model
    specs = opened.manifest.models[model].inputs
    inputs = {spec.name: np.zeros((1, *spec.shape[1:]), spec.dtype) for spec in specs}
    request = _message(model, inputs)
    with ExitStack() as stack:

        def to(url: str) -> Callable[[], Any]:
            channel = stack.enter_context(grpc.insecure_channel(url))
            call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
            return lambda: call(request)

        def client(*, shared_memory: bool) -> Callable[[], Any]:
            server = TritonServer(url=f"grpc://{answering.url}", shared_memory=shared_memory)
            backend = stack.enter_context(server.connect(model, opened.manifest))
            return lambda: backend.run(inputs)

        network = stack.enter_context(
            create_backend(answering.server.backend, opened.read(model), threads=answering.server.threads)
        )
        yield {
            STEADY: lambda: network.run(inputs),
            TRITON: to(upstream_url(answering.process.pid)),
            DOOR: to(answering.url),
            CLIENT: client(shared_memory=False),
            MEMORY: client(shared_memory=True),
            PAUSED: lambda: network.run(inputs),
        }


def _message(model: str, inputs: Tensors) -> bytes:
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=model)
    for name, values in inputs.items():
        request.inputs.add(name=name, datatype=DATA_TYPES[values.dtype.name], shape=values.shape)
        request.raw_input_contents.append(values.tobytes())
    data: bytes = request.SerializeToString()
    return data


def show(result: dict[str, Any]) -> None:
    """Prints a table."""
    phases = next(row["phases_ms"] for row in result["rows"] if "phases_ms" in row)
    table = Table(title="One face, one request at a time; ms. Overhead: all but the network's compute")
    for column in ("backend", "path", "p50", "p95", "overhead", *phases):
        table.add_column(column, justify="left" if column in ("backend", "path") else "right")
    for row in result["rows"]:
        inside = [row["overhead_ms"], *row["phases_ms"].values()] if "phases_ms" in row else []
        cells = (f"{ms:.2f}" for ms in (row["p50_ms"], row["p95_ms"], *inside))
        table.add_row(row["backend"], row["path"], *cells)
    Console(width=160).print(table)
