"""glibc's heap in a server: large blocks that are freed go back to the system.

By itself glibc maps blocks from 128 KiB on each on its own, but once such a block was freed it takes others
of up to that size from its heaps, of which it has several for each core. A server that holds requests of
several faces at once is then left with holes between them, and grows. See ``mallopt(3)``.
"""

from __future__ import annotations

import ctypes
import os

# The size that glibc starts with; to name it keeps it from being raised.
THRESHOLD_BYTES = 128 * 1024
THRESHOLD_VARIABLE = "MALLOC_MMAP_THRESHOLD_"
# For programs that this one starts. How many heaps they have is theirs: more cores may need more.
HEAP_VARIABLES = {THRESHOLD_VARIABLE: str(THRESHOLD_BYTES)}

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h


def return_large_blocks(threshold_bytes: int = THRESHOLD_BYTES, heaps: int = 2) -> None:
    """Has this process's blocks from a size on mapped each on its own, and unmapped when they are freed.

    Call it before threads start, because heaps that there are stay. What the environment says of the heap
    (``MALLOC_...``, ``GLIBC_TUNABLES``) wins. Does nothing in a C library other than glibc.

    Args:
        heaps: for all threads; Python's seldom need one at the same time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for variable, tunable, parameter, value in (
        (THRESHOLD_VARIABLE, "mmap_threshold", _M_MMAP_THRESHOLD, threshold_bytes),
        ("MALLOC_ARENA_MAX", "arena_max", _M_ARENA_MAX, heaps),
    ):
        if variable not in os.environ and tunable not in os.environ.get("GLIBC_TUNABLES", ""):
            mallopt(parameter, value)
