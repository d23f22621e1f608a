"""glibc's heap in a server: freed memory goes back to the system.

By itself glibc takes ever larger blocks from its heaps once it has seen such freed, and has a heap for every
thread. Requests of hundreds of kilobytes then leave holes, and a server grows for as long as it is busy. See
``mallopt(3)``.
"""

from __future__ import annotations

import ctypes
import os

# Blocks from 128 KiB on, glibc's own start value, are always the system's, and returned when they are freed.
_BLOCK_BYTES = 128 * 1024

# For processes that are started: what they read before their first allocation.
VARIABLES = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(_BLOCK_BYTES),
    "MALLOC_TRIM_THRESHOLD_": str(_BLOCK_BYTES),
}
# malloc.h's numbers of the same.
_PARAMETERS = {"MALLOC_ARENA_MAX": -8, "MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_TRIM_THRESHOLD_": -1}


def return_freed_memory() -> list[str]:
    """Sets this process's heap up as ``VARIABLES`` says; what its environment sets itself, stays.

    Other C libraries than glibc have heaps of their own, which are left alone.

    Returns:
        The names of the variables whose values were taken.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: Windows has no library of that name
        return []
    ours = {name: value for name, value in VARIABLES.items() if name not in os.environ}
    return [name for name, value in ours.items() if mallopt(_PARAMETERS[name], int(value)) == 1]
