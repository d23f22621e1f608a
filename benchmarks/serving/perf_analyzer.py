"""Runs Triton's own load generator, ``perf_analyzer``, and reads its answer.

It is found on PATH (NVIDIA's SDK container has it there), or in an environment that holds the wheel
``tritonclient==2.51.0``, whose generator borrows two libraries from ``nvidia-pytriton`` beside it.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAM = "perf_analyzer"

# Name that the generator asks for -> the wheel's name of it.
_BORROWED = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}

_LATENCIES = {"p50": "p50 latency", "p90": "p90 latency", "p95": "p95 latency", "p99": "p99 latency"}
_PHASES = {
    "queue": "Server Queue",
    "compute_input": "Server Compute Input",
    "compute_infer": "Server Compute Infer",
    "compute_output": "Server Compute Output",
}


class LoadError(ValueError):
    """The generator is missing, or its run failed."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one concurrency gave.

    Attributes:
        concurrency: requests in flight, each sent when the one before it was answered.
        requests_per_s: answered requests a second: those in flight over their mean latency, for clients send
            as soon as they are answered. The generator's own figure counts whole seconds.
        client_ms: quantiles of the time from sending to the answer, by name.
        server_ms: mean time of a request in each of the server's phases, by name.
    """

    concurrency: int
    requests_per_s: float
    client_ms: Mapping[str, float]
    server_ms: Mapping[str, float]


def find(environment: Path | None) -> Path:
    """The program, from a virtual environment or from PATH.

    Raises:
        LoadError: there is none.
    """
    inside = [] if environment is None else [environment / "bin" / PROGRAM]
    on_path = shutil.which(PROGRAM)
    for path in [*inside, *([Path(on_path)] if on_path else [])]:
        if path.is_file():
            return path
    raise LoadError(
        f"there is no {PROGRAM} {f'in {environment} or ' if environment else ''}on PATH; "
        "run: make bench-env, or use NVIDIA's SDK container"
    )


def measure(
    program: Path,
    *,
    url: str,
    protocol: str,
    model: str,
    faces: int,
    concurrency: int,
    requests: int,
    timeout_s: float = 600,
) -> Load:
    """Sends ``requests`` requests of ``faces`` faces each, ``concurrency`` at a time.

    The pictures are black: the networks compute the same for every picture.

    Args:
        program: see ``find``.
        url: ``host:port``.
        protocol: ``grpc`` or ``http``.
        model: name of the network.
        faces: batch of one request.
        concurrency, requests: how many at a time, and in all.
        timeout_s: when to give up.

    Raises:
        LoadError: the run failed, took too long or said nothing.
    """
    with tempfile.TemporaryDirectory() as folder, _libraries(program) as environment:
        table = Path(folder) / "load.csv"
        command = [str(program), "-m", model, "-i", protocol, "-u", url, "-b", str(faces)]
        command += ["--concurrency-range", str(concurrency), "--request-count", str(requests)]
        # Windows are for steady states to be found; here a fixed number of requests is the measurement.
        command += [
            "--stability-percentage",
            "999",
            "--input-data",
            "zero",
            "--verbose-csv",
            "-f",
            str(table),
        ]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise LoadError(f"{PROGRAM} did not end within {timeout_s:g} s at {url}") from error
        if done.returncode or not table.is_file():
            lines = (done.stdout + done.stderr).strip().splitlines()
            raise LoadError(f"{PROGRAM} failed at {url}: {lines[-1] if lines else done.returncode}")
        return read_table(table.read_text())


def read_table(text: str) -> Load:
    """The one row of the generator's table; its times are in microseconds."""
    rows = [row for row in csv.DictReader(text.splitlines()) if row.get("Concurrency")]
    if len(rows) != 1:
        raise LoadError(f"expected one row of {PROGRAM}, found {len(rows)}: {text[:200]!r}")
    (row,) = rows

    def ms(columns: Mapping[str, str]) -> dict[str, float]:
        return {name: float(row[column]) / 1e3 for name, column in columns.items() if row.get(column)}

    return Load(
        concurrency=int(row["Concurrency"]),
        requests_per_s=int(row["Concurrency"]) / (float(row["Avg latency"]) / 1e6),
        client_ms=ms(_LATENCIES),
        server_ms=ms(_PHASES),
    )


@contextmanager
def _libraries(program: Path) -> Iterator[dict[str, str]]:
    """The environment to run the program in: the wheel's libraries under the names that it asks for."""
    environment = dict(os.environ)
    venv = program.absolute().parent.parent  # links to what is in it must not depend on where they lie
    folders = list(venv.glob("lib/python3*/site-packages/nvidia_pytriton.libs"))
    if not folders:
        yield environment
        return
    with tempfile.TemporaryDirectory() as links:
        for name, pattern in _BORROWED.items():
            for library in folders[0].glob(pattern):
                (Path(links) / name).symlink_to(library)
        environment["LD_LIBRARY_PATH"] = f"{links}:{folders[0]}"
        yield environment
