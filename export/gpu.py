"""Which GPU TensorRT builds for, asked of NVIDIA's driver itself: no torch, and no CUDA context is made."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
# CUdevice_attribute of the driver's interface.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_NAME_BYTES = 256


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The first GPU that CUDA shows.

    Attributes:
        name: such as ``NVIDIA H200``.
        architecture: its compute capability, such as ``9.0``.
        cuda_version: newest CUDA that the driver knows, such as ``13.0``.
    """

    name: str
    architecture: str
    cuda_version: str


def find_gpu() -> Gpu | None:
    """The GPU of this machine, or None without a driver or a GPU. ``CUDA_VISIBLE_DEVICES`` is honoured."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return None
    device, name = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES)
    version, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), 0)
        or driver.cuDeviceGetName(name, _NAME_BYTES, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
        or driver.cuDriverGetVersion(ctypes.byref(version))
    )
    if failed:
        return None
    return Gpu(
        name=name.value.decode("utf-8", "replace"),
        architecture=f"{major.value}.{minor.value}",
        cuda_version=f"{version.value // 1000}.{version.value % 1000 // 10}",
    )
