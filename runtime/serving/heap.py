"""glibc's heap in a server: large blocks that are freed go back to the system.

By itself glibc maps blocks from 128 KiB on each on its own, but once such a block was freed it takes others
of up to that size from its heaps (see ``mallopt(3)``, ``M_MMAP_THRESHOLD``). A server that holds requests of
several faces at once is then left with holes between them, and grows.
"""

from __future__ import annotations

import ctypes
import os

# The size that glibc starts with; to name it keeps it from being raised.
THRESHOLD_BYTES = 128 * 1024
THRESHOLD_VARIABLE = "MALLOC_MMAP_THRESHOLD_"
# For programs that this one starts.
HEAP_VARIABLES = {THRESHOLD_VARIABLE: str(THRESHOLD_BYTES)}

_M_MMAP_THRESHOLD = -3  # malloc.h


def return_large_blocks(threshold_bytes: int = THRESHOLD_BYTES) -> None:
    """Has this process's blocks from a size on mapped each on its own, and unmapped when they are freed.

    Does nothing where the environment names a threshold itself, nor in a C library other than glibc.
    """
    if THRESHOLD_VARIABLE in os.environ or "mmap_threshold" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, threshold_bytes)
