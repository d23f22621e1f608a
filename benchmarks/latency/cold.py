"""A cold start: one photo in a process of its own, from its start until the photo is written.

As a program, ``python -m benchmarks.latency.cold protect IN -o OUT ...`` is ``erasablemask`` with the same
arguments, and ends with a line of JSON about its memory. Its files are in the system's cache.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def cold_start(arguments: Sequence[str]) -> tuple[float, float | None]:
    """Runs ``erasablemask`` in a new process.

    Args:
        arguments: of one photo.

    Returns:
        Milliseconds until the photo was written, and the most memory that the process had in MiB.

    Raises:
        ValueError: it failed; its last words are in the message.
    """
    command = [sys.executable, "-m", "benchmarks.latency.cold", *arguments]
    start_s = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None  # both are pipes
    assert process.stderr is not None
    lines = []
    for line in process.stdout:  # the last one comes as soon as the photo is written
        lines.append(line)
        took_ms = 1e3 * (time.perf_counter() - start_s)
    errors = process.stderr.read()
    if process.wait() != 0 or not lines:
        last = (errors.strip().splitlines() or ["it said nothing"])[-1]
        raise ValueError(f"erasablemask {' '.join(arguments)} failed: {last}")
    return took_ms, json.loads(lines[-1])["peak_mib"]


def peak_mib() -> float | None:
    """The most memory that this process has had in RAM; None where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    # Not getrusage's: that one remembers the process which this one was forked from.
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), None)


def main() -> None:
    """Runs the command line and tells the memory."""
    from runtime.cli import main as erasablemask

    code = erasablemask(sys.argv[1:], standalone_mode=False)
    sys.stdout.write(json.dumps({"peak_mib": peak_mib()}) + "\n")
    sys.stdout.flush()
    raise SystemExit(code)


if __name__ == "__main__":
    main()
