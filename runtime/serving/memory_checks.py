"""Which shared memory a client of the public gRPC door may name: what it made for this purpose, and no other.

Triton opens whatever key it is told, with the rights of its user: memory of other programs, or that between
itself and its stubs. Named as a place for answers it would be overwritten. So a key must have the form that
``backends.triton_memory`` gives it. Its random part keeps clients from finding each other's regions: what is
registered is named like its key, and nobody is told of names that they do not know.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from ..backends.triton_wire import MEMORY_NAME
from .grpc_checks import RefusedError, shortened

_FOLDER = Path("/dev/shm")


def check_region(method: str, request: Any) -> None:
    """Checks a request that registers a region of shared memory, forgets one or asks about one.

    Args:
        method: ``SystemSharedMemoryRegister``, ``-Unregister`` or ``-Status``.
        request: its message.

    Raises:
        RefusedError: INVALID_ARGUMENT, the region is none that a client may have made.
    """
    if not re.fullmatch(MEMORY_NAME, request.name):
        raise RefusedError(
            "INVALID_ARGUMENT",
            f"expected a region named as in {MEMORY_NAME}, found {shortened(request.name)}",
        )
    if method != "SystemSharedMemoryRegister":
        return
    if request.key != f"/{request.name}":
        raise RefusedError(
            "INVALID_ARGUMENT",
            f"expected the key '/{request.name}' for this region, found {shortened(request.key)}",
        )
    if (found := _size(request.name)) < (end := request.offset + request.byte_size):
        raise RefusedError(
            "INVALID_ARGUMENT", f"expected {end} bytes of shared memory in '/{request.name}', found {found}"
        )


def _size(name: str) -> int:
    """Bytes of a piece of shared memory, 0 if there is none."""
    try:
        return os.stat(_FOLDER / name, follow_symlinks=False).st_size
    except OSError:
        return 0
