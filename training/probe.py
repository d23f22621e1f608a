"""What this machine gives: matrix rate, peak memory, and faces nobody has, to measure with."""

from __future__ import annotations

import ctypes
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from runtime.geometry import crop_template

from .batches import Batch, take
from .data import FacePack

MATRIX_SIDE = {"cuda": 8192, "cpu": 1024}
_GLIBC = "libc.so.6"


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's architecture and the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}), {torch.get_num_threads()} threads"


def clock(device: torch.device) -> float:
    """Seconds, when everything asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def matrix_rate(device: torch.device, dtype: torch.dtype, *, seconds: float = 0.5) -> float:
    """FLOP/s of a product of two large random square matrices, the fastest of the repetitions."""
    side = MATRIX_SIDE[device.type]
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    fastest, started = float("inf"), clock(device)
    while clock(device) - started < seconds or fastest == float("inf"):
        before = clock(device)
        torch.mm(a, b)
        fastest = min(fastest, clock(device) - before)
    return 2 * side**3 / fastest


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """By how much a piece of work raises the memory in use at its peak.

    On a GPU, of what PyTorch allocated; on a CPU, of the process's resident memory (where the system
    cannot start its peak afresh, a smaller peak than an earlier one counts as nothing).
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    _forget_peak()
    before = _peak_resident()
    work()
    return _peak_resident() - before


def _forget_peak() -> None:
    """Gives freed memory back and makes the peak what is resident now; Linux only."""
    if sys.platform == "linux":
        try:
            ctypes.CDLL(_GLIBC).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
        except (OSError, AttributeError):
            return


def _peak_resident() -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def random_faces(count: int, side_px: int, n_attributes: int) -> FacePack:
    """Noise for faces, with landmarks about where crops have them."""
    rng = np.random.default_rng(0)
    landmarks = crop_template(side_px) + rng.normal(0, 0.01 * side_px, (count, 5, 2))
    return FacePack(
        crops=rng.integers(0, 256, (count, side_px, side_px, 3), dtype=np.uint8),
        landmarks=landmarks.astype(np.float32),
        attributes=rng.integers(0, 2, (count, n_attributes)).astype(np.uint8),
        identities=np.arange(count),
        names=("",) * count,
    )


def first_batch(faces: FacePack, size: int) -> Batch:
    """The first faces, as in training; every other one is mirrored."""
    return take(faces, np.arange(size), np.arange(size) % 2 == 1)
