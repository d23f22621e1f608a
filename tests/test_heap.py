"""What a server tells glibc's heap, seen in where processes then get their memory."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from runtime.serving import arrangement
from runtime.serving.heap import HEAP_VARIABLES, THRESHOLD_BYTES, THRESHOLD_VARIABLE
from runtime.serving.process import ServerProcess
from runtime.serving.settings import ServerSettings

# Frees blocks of 4 MiB, for which glibc raises its threshold, and prints how many of ten blocks of 300 KiB,
# and of ten of 2 MiB, are mapped each on its own afterwards.
COUNT_MAPPED = """
import ctypes, sys
from runtime.serving.heap import return_large_blocks

class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Mallinfo

def mapped(size):
    before = mallinfo().hblks
    blocks = [bytes(size) for _ in range(10)]
    return mallinfo().hblks - before

for threshold in sys.argv[1:]:
    return_large_blocks(int(threshold))
large = [bytes(2**22) for _ in range(4)]
del large
print(mapped(300 * 1024), mapped(2**21))
"""

# Writes glibc's own account of its heaps, once eight threads at a time have taken memory.
TELL_HEAPS = """
import ctypes, sys, threading
from runtime.serving.heap import return_large_blocks

libc = ctypes.CDLL(None)
for heaps in sys.argv[1:]:
    return_large_blocks(heaps=int(heaps))
together = threading.Barrier(8)

def take():
    together.wait()
    block = bytes(10_000)
    together.wait()

threads = [threading.Thread(target=take) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
stdout = ctypes.c_void_p.in_dll(libc, "stdout")
libc.malloc_info(0, stdout)
libc.fflush(stdout)
"""

needs_glibc = pytest.mark.skipif(
    not (sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallinfo2")),
    reason="needs glibc from 2.33: another C library has another heap",
)


def output_of(code: str, *arguments: int, **variables: str) -> str:
    ours = {n: v for n, v in os.environ.items() if n != "GLIBC_TUNABLES" and not n.startswith("MALLOC_")}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=ours | variables, capture_output=True, text=True, check=True).stdout


def mapped(*thresholds: int, **variables: str) -> str:
    return output_of(COUNT_MAPPED, *thresholds, **variables).strip()


def heaps(*most: int, **variables: str) -> int:
    return output_of(TELL_HEAPS, *most, **variables).count("<heap nr=")


@needs_glibc
def test_blocks_as_large_as_a_request_are_mapped_each_on_its_own() -> None:
    assert mapped() == "0 0", "glibc no longer raises its threshold: is heap.py still needed?"
    assert mapped(THRESHOLD_BYTES) == "10 10"
    assert mapped(2**20) == "0 10"
    assert mapped(**HEAP_VARIABLES) == "10 10"


@needs_glibc
@pytest.mark.parametrize(
    ("variable", "value"),
    [(THRESHOLD_VARIABLE, str(2**25)), ("GLIBC_TUNABLES", f"glibc.malloc.mmap_threshold={2**25}")],
)
def test_a_threshold_of_the_environment_stays(variable: str, value: str) -> None:
    assert mapped(THRESHOLD_BYTES, **{variable: value}) == "0 0"


@needs_glibc
def test_threads_share_two_heaps() -> None:
    assert heaps() > 2, "glibc no longer has a heap for every thread: is heap.py still needed?"
    assert heaps(2) == 2
    assert heaps(2, MALLOC_ARENA_MAX="1") == 1


def test_a_server_sets_its_own_heap_first(monkeypatch: pytest.MonkeyPatch) -> None:
    class BegunError(Exception):
        """Instead of a server."""

    def begin() -> None:
        raise BegunError

    called: list[str] = []
    monkeypatch.setattr(arrangement, "return_large_blocks", lambda: called.append("heap"))
    monkeypatch.setattr(arrangement, "listen", begin)
    with pytest.raises(BegunError):
        arrangement.serve(ServerSettings(role="public", bundle="unused"), None)  # type: ignore[arg-type]
    assert called == ["heap"]


@pytest.mark.parametrize("value", [None, "1000000"])
def test_triton_and_the_models_inherit_it(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv(THRESHOLD_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(THRESHOLD_VARIABLE, value)
    expected = value or str(THRESHOLD_BYTES)
    code = f"import os, sys; sys.exit(os.environ[{THRESHOLD_VARIABLE!r}] != {expected!r})"
    process = ServerProcess([sys.executable, "-c", code], variables={}, memory_prefix="none-")
    assert process.wait(10) == 0
    assert process.end() == 0
