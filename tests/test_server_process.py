"""Triton as a child process, in whose place are a few lines of Python."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.errors import ServingError
from runtime.serving.process import ServerProcess
from runtime.serving.stubs import Stub
from tests.serving import is_running

CHILD = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print('2026-01-01T00:00:00Z E 1 main.cc:1] "it broke"', flush=True)
time.sleep(60)
"""


def test_a_process_is_heard_signalled_and_cleaned_up_after() -> None:
    prefix = f"erasablemask-test-{os.getpid()}-"
    region = Path("/dev/shm") / f"{prefix}x"
    process = ServerProcess([sys.executable, "-c", CHILD], variables={}, memory_prefix=prefix)
    try:
        region.touch()
        until = time.monotonic() + 10
        while "it broke" not in process.last_errors() and time.monotonic() < until:
            time.sleep(0.02)
        assert process.last_errors() == 'main.cc:1] "it broke"'
        assert process.status() is None
        assert process.stubs() == {}
        process.send(signal.SIGTERM)
        assert process.wait(10) == 7
    finally:
        assert process.end() == 7
    assert not region.exists()


def test_a_passphrase_is_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERASABLEMASK_PASSPHRASE", "correct horse battery")
    monkeypatch.setenv("ERASABLEMASK_SERVE_ROLE", "authority")
    code = "import os, sys; names = os.environ; sys.exit(3 if 'ERASABLEMASK_PASSPHRASE' in names else " + (
        "4 if names['ERASABLEMASK_SERVE_ROLE'] == 'authority' and names['MORE'] == 'x' else 5)"
    )
    process = ServerProcess([sys.executable, "-c", code], variables={"MORE": "x"}, memory_prefix="none-")
    assert process.wait(10) == 4
    assert process.end() == 4


def test_the_processes_of_models_are_found_and_watched(tmp_path: Path) -> None:
    stub = tmp_path / "protect" / "1" / "model.py"
    stub.parent.mkdir(parents=True)
    stub.write_text("import time\ntime.sleep(60)\n")
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, {str(stub)!r}])\n"
    process = ServerProcess([sys.executable, "-c", code], variables={}, memory_prefix="erasablemask-none-")
    try:
        until = time.monotonic() + 10
        while Stub("protect", "1") not in process.stubs().values() and time.monotonic() < until:
            time.sleep(0.02)
        (pid,) = process.stubs()
        assert process.stubs() == {pid: Stub("protect", "1")}
        assert process.lives(pid)
        process.kill_stubs("protect")
        while process.lives(pid) and time.monotonic() < until:
            time.sleep(0.02)
        assert not process.lives(pid)
    finally:
        process.end()


@contextmanager
def no_more_files() -> Iterator[None]:
    """None can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_files_to_open_nothing_counts_as_dead(caplog: pytest.LogCaptureFixture) -> None:
    process = ServerProcess([sys.executable, "-c", CHILD], variables={}, memory_prefix="erasablemask-none-")
    try:
        with no_more_files():
            with pytest.raises(OSError, match="Too many open files"):
                Path("/dev/null").read_bytes()
            assert process.lives(process.pid)
            with pytest.raises(ServingError, match="cannot look for the models' processes: Too many open"):
                process.stubs()
            process.hide_memory()
        assert "the memory of the models' processes keeps its name: Too many open files" in caplog.text
    finally:
        process.end()
    assert not process.lives(process.pid)


def test_a_killed_process_has_a_shells_status() -> None:
    process = ServerProcess([sys.executable, "-c", CHILD], variables={}, memory_prefix="erasablemask-none-")
    assert process.end() == 128 + signal.SIGKILL


def test_a_program_that_is_not_there_ends_with_an_error() -> None:
    process = ServerProcess(["/no/such/program"], variables={}, memory_prefix="erasablemask-none-")
    assert process.wait(10) == 1
    process.end()


def test_a_process_ends_with_its_parent() -> None:
    code = (
        "import os, sys, time\n"
        "from runtime.serving.process import ServerProcess\n"
        "child = ServerProcess([sys.executable, '-c', 'import time; time.sleep(60)'], "
        "variables={}, memory_prefix='erasablemask-none-')\n"
        "time.sleep(1)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    until = time.monotonic() + 10
    while is_running(child) and time.monotonic() < until:
        time.sleep(0.02)
    assert not is_running(child)
