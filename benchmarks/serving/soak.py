"""``benchmarks.serving soak``: a server under load for a while: does it grow, slow down or fail?"""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from runtime.backends.base import Tensors
from runtime.backends.retries import TransportError
from runtime.backends.triton import TritonServer
from runtime.manifest import open_bundle
from runtime.serving.settings import DEFAULT_ENVIRONMENT, SERVER_BACKENDS
from runtime.shipped import default_bundle

from ..common import about_bundle, as_click_errors, environment
from ..schema import write_result
from .served import Server, model_of, running

SAMPLE_S = 5.0
# Longest wait for an answer.
ANSWER_S = 60.0
# Libraries' pools fill in the first third and settle in the second. In half an hour some 11,000 requests come
# between the middles of the other two: 96 bytes that each leaves behind are this.
GROWTH_LIMIT_MIB = 1.0
# The line through the sizes begins after this share of the time.
WARM_UP = 0.3


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="A public one.  [default: the shipped one]")
@click.option(
    "--environment", "venv", type=click.Path(path_type=Path), default=DEFAULT_ENVIRONMENT, show_default=True
)
@click.option("--backend", type=click.Choice(SERVER_BACKENDS), default="ort-cpu", show_default=True)
@click.option("--minutes", default=30.0, show_default=True, type=click.FloatRange(min=0, min_open=True))
@click.option("--concurrency", default=8, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--growth-limit",
    default=GROWTH_LIMIT_MIB,
    show_default=True,
    help="MiB that the mean size of one of the server's processes in the last third of the time may be above "
    "that in the middle third; more is a failure.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="JSON file to write.")
def command(
    bundle: Path | None,
    venv: Path,
    backend: str,
    minutes: float,
    concurrency: int,
    growth_limit: float,
    out: Path,
) -> None:
    """Sends requests of one to six faces without pause, and watches the server's processes.

    Every other client goes through the HTTP door. Ends with 1 after an error, and if memory grew.
    """
    folder = bundle or default_bundle("public")
    with (
        as_click_errors(),
        tempfile.TemporaryDirectory() as scratch,
        running(
            Server(name="soak", backend=backend), folder, venv, Path(scratch) / "server", http=True
        ) as server,
    ):
        clients = Clients((f"grpc://{server.url}", f"http://{server.http_url}"), folder, concurrency)
        samples = []
        clients.start()
        begin = time.monotonic()
        while (elapsed_s := time.monotonic() - begin) < 60 * minutes:
            time.sleep(SAMPLE_S)
            samples.append({"s": elapsed_s, **memory(server.process.pid)})
        clients.stop()
    names = [name for name in samples[-1] if name != "s"]
    growth = {name: growth_mib(samples, name) for name in names}
    result: dict[str, Any] = {
        "benchmark": "soak",
        "environment": environment(),
        "bundle": about_bundle(open_bundle(folder), server.model),
        "settings": {
            "backend": backend,
            "minutes": minutes,
            "concurrency": concurrency,
            "growth_limit_mib": growth_limit,
        },
        "requests": len(clients.times_ms),
        "errors": clients.errors,
        "latency_ms": by_minute(clients.times_ms, begin),
        "memory_mib": samples,
        "growth_mib": growth,
        "growth_mib_per_hour": {name: slope_mib_per_hour(samples, name) for name in names},
    }
    write_result(result, out)
    click.echo(f"{len(clients.times_ms)} requests, {len(clients.errors)} errors")
    click.echo("MiB at the end, and growth from the middle third of the time to the last:")
    for name, mib in growth.items():
        click.echo(f"  {name}: {samples[-1][name]:.0f}, {mib:+.2f}")
    if grown := sorted(name for name, mib in growth.items() if mib > growth_limit):
        click.echo(f"grew by more than {growth_limit:g} MiB: {', '.join(grown)}", err=True)
    if clients.errors or grown:
        raise click.exceptions.Exit(1)


class Clients:
    """Threads that send one request after the other, and none a second time.

    Args:
        urls: of the server, which the threads take in turns.
        bundle: folder of the public bundle that it serves.
        count: of threads.

    Attributes:
        times_ms: when a request was answered, by ``time.monotonic``, and after how long.
        errors: what was answered instead.
    """

    def __init__(self, urls: Sequence[str], bundle: Path, count: int) -> None:
        self.times_ms: list[tuple[float, float]] = []
        self.errors: list[str] = []
        manifest = open_bundle(bundle).manifest
        self._model = model_of(manifest)
        self._entry = manifest.models[self._model]
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._send, args=(urls[seed % len(urls)], seed)) for seed in range(count)
        ]

    def start(self) -> None:
        """Begins to send."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Waits for what is in flight."""
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _send(self, url: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        with closing(TritonServer(url=url).open_transport()) as transport:
            while not self._end.is_set():
                inputs = self._faces(rng)
                start = time.monotonic()
                try:
                    transport.infer(self._model, inputs, self._entry.outputs, ANSWER_S)
                except TransportError as error:
                    self.errors.append(f"{time.monotonic():.1f}: {error}")
                else:
                    self.times_ms.append((time.monotonic(), 1e3 * (time.monotonic() - start)))

    def _faces(self, rng: np.random.Generator) -> Tensors:
        count = int(rng.integers(1, 7))

        def values(dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
            if dtype == "uint8":
                return rng.integers(0, 256, shape, np.uint8)
            return rng.random(shape, np.float32)

        return {spec.name: values(spec.dtype, (count, *spec.shape[1:])) for spec in self._entry.inputs}


def memory(root: int) -> dict[str, float]:
    """Memory of a process and all below it that no other process shares, in MiB by what they are."""
    sizes: dict[str, float] = {}
    for pid in _tree(root):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:  # it ended meanwhile
            continue
        name = "supervisor" if pid == root else "tritonserver" if "tritonserver " in line else "stubs"
        private_kib = sum(int(kib) for kib in re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.MULTILINE))
        sizes[name] = sizes.get(name, 0.0) + private_kib / 1024
    return sizes


def _tree(root: int) -> list[int]:
    found = [root]
    for pid in found:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                found += map(int, children.read_text().split())
            except OSError:  # the thread ended meanwhile
                continue
    return found


def growth_mib(samples: Sequence[dict[str, float]], name: str) -> float:
    """How far the mean of a size in the last third of the time is above that in the middle third."""
    thirds = np.array_split([sample[name] for sample in samples if name in sample], 3)
    return float(thirds[2].mean() - thirds[1].mean()) if thirds[2].size else 0.0


def slope_mib_per_hour(samples: Sequence[dict[str, float]], name: str) -> float:
    """Slope of the straight line through a size after the warm-up."""
    late = [sample for sample in samples[int(WARM_UP * len(samples)) :] if name in sample]
    if len(late) < 2:
        return 0.0
    return float(np.polyfit([s["s"] for s in late], [s[name] for s in late], 1)[0] * 3600)


def by_minute(times_ms: Sequence[tuple[float, float]], begin: float) -> list[dict[str, float]]:
    """Median and 99th percentile of every minute."""
    minutes: dict[int, list[float]] = {}
    for at, taken_ms in times_ms:
        minutes.setdefault(int((at - begin) // 60), []).append(taken_ms)
    return [
        {
            "minute": minute,
            "requests": len(taken),
            "p50": float(np.quantile(taken, 0.5)),
            "p99": float(np.quantile(taken, 0.99)),
        }
        for minute, taken in sorted(minutes.items())
    ]
