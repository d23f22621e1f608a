"""What a server tells glibc's heap, seen in what processes then hold."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from runtime.serving.heap import VARIABLES, return_freed_memory
from runtime.serving.process import ServerProcess

# Prints how many of ten blocks come from the system after larger ones were freed: glibc takes them for a sign
# that such blocks belong into its heap.
COUNT_BLOCKS = """
import ctypes, sys
from runtime.serving.heap import return_freed_memory

class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Mallinfo
if "ours" in sys.argv:
    return_freed_memory()
large = [bytes(2**20) for _ in range(4)]
del large
before = mallinfo().hblks
blocks = [bytes(300 * 1024) for _ in range(10)]
print(mallinfo().hblks - before)
"""

needs_glibc = pytest.mark.skipif(
    not (sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallinfo2")),
    reason="needs glibc from 2.33: another C library has another heap",
)


def blocks_of_the_system(*arguments: str, **variables: str) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    child = subprocess.run(
        [sys.executable, "-c", COUNT_BLOCKS, *arguments],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(child.stdout)


@needs_glibc
def test_blocks_as_large_as_a_request_are_given_back_when_freed() -> None:
    assert blocks_of_the_system() == 0, "glibc keeps such blocks by itself no longer: is heap.py needed?"
    assert blocks_of_the_system("ours") == 10
    assert blocks_of_the_system(**VARIABLES) == 10


@needs_glibc
def test_what_the_environment_says_of_the_heap_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MALLOC_ARENA_MAX")
    assert return_freed_memory() == ["MALLOC_ARENA_MAX"]
    assert blocks_of_the_system("ours", MALLOC_MMAP_THRESHOLD_=str(2**25)) == 0


def test_triton_and_the_models_are_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    code = (
        "import os, sys; sys.exit((os.environ['MALLOC_ARENA_MAX'], os.environ['MALLOC_MMAP_THRESHOLD_'])"
        " != ('7', '131072'))"
    )
    process = ServerProcess([sys.executable, "-c", code], variables={}, memory_prefix="none-")
    assert process.wait(10) == 0
    assert process.end() == 0
