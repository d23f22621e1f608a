"""``benchmarks.serving soak``: a server under load for a while: does it grow, slow down or fail?"""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from runtime.backends.base import Tensors
from runtime.manifest import open_bundle
from runtime.serving.settings import DEFAULT_ENVIRONMENT, SERVER_BACKENDS
from runtime.shipped import default_bundle

from ..common import about_bundle, as_click_errors, environment
from ..schema import write_result
from .served import MODEL, Server, running

SAMPLE_S = 5.0
# Growth is judged after this share of the time: libraries fill their pools first.
WARM_UP = 0.3


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="A public one.  [default: the shipped one]")
@click.option(
    "--environment", "venv", type=click.Path(path_type=Path), default=DEFAULT_ENVIRONMENT, show_default=True
)
@click.option("--backend", type=click.Choice(SERVER_BACKENDS), default="ort-cpu", show_default=True)
@click.option("--minutes", default=10.0, show_default=True, type=click.FloatRange(min=0, min_open=True))
@click.option("--concurrency", default=8, show_default=True, type=click.IntRange(min=1))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="JSON file to write.")
def command(
    bundle: Path | None, venv: Path, backend: str, minutes: float, concurrency: int, out: Path
) -> None:
    """Sends requests of one to six faces without pause, and watches the server's processes."""
    folder = bundle or default_bundle("public")
    with (
        as_click_errors(),
        tempfile.TemporaryDirectory() as scratch,
        running(Server(name="soak", backend=backend), folder, venv, Path(scratch) / "server") as server,
    ):
        clients = Clients(server.url, folder, concurrency)
        samples = []
        clients.start()
        begin = time.monotonic()
        while (elapsed_s := time.monotonic() - begin) < 60 * minutes:
            time.sleep(SAMPLE_S)
            samples.append({"s": elapsed_s, **memory(server.process.pid)})
        clients.stop()
    growth = {name: slope_mib_per_hour(samples, name) for name in samples[-1] if name != "s"}
    result: dict[str, Any] = {
        "benchmark": "soak",
        "environment": environment(),
        "bundle": about_bundle(open_bundle(folder), MODEL),
        "settings": {"backend": backend, "minutes": minutes, "concurrency": concurrency},
        "requests": len(clients.times_ms),
        "errors": clients.errors,
        "latency_ms": by_minute(clients.times_ms, begin),
        "memory_mib": samples,
        "growth_mib_per_hour": growth,
    }
    write_result(result, out)
    click.echo(f"{len(clients.times_ms)} requests, {len(clients.errors)} errors")
    click.echo("MiB at the end, and growth in an hour:")
    for name, per_hour in growth.items():
        click.echo(f"  {name}: {samples[-1][name]:.0f}, {per_hour:+.1f}")
    if clients.errors:
        raise click.exceptions.Exit(1)


class Clients:
    """Threads that send one request after the other.

    Attributes:
        times_ms: when a request was answered, by ``time.monotonic``, and after how long.
        errors: what was answered instead.
    """

    def __init__(self, url: str, bundle: Path, count: int) -> None:
        self.times_ms: list[tuple[float, float]] = []
        self.errors: list[str] = []
        self._url, self._entry = url, open_bundle(bundle).manifest.models[MODEL]
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(seed,)) for seed in range(count)]

    def start(self) -> None:
        """Begins to send."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Waits for what is in flight."""
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _send(self, seed: int) -> None:
        from tritonclient.grpc import InferenceServerClient, InferInput

        rng = np.random.default_rng(seed)
        with InferenceServerClient(self._url) as client:
            while not self._end.is_set():
                inputs = []
                for name, values in self._faces(rng).items():
                    kind = "UINT8" if values.dtype == np.uint8 else "FP32"
                    inputs.append(InferInput(name, list(values.shape), kind))
                    inputs[-1].set_data_from_numpy(values)
                start = time.monotonic()
                try:
                    client.infer(MODEL, inputs)
                except Exception as error:  # whatever it is, it is what this looks for
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
