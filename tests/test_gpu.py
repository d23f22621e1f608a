"""The GPU that plans are built for, asked of a stand-in for NVIDIA's driver."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from export import gpu as gpu_module
from export.gpu import Gpu, find_gpu


class Driver:
    """NVIDIA's driver with one H200."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing

    def __getattr__(self, call: str) -> Any:
        return lambda *arguments: 100 if call == self.failing else getattr(self, f"_{call}")(*arguments)

    def _cuInit(self, flags: int) -> int:
        return flags

    def _cuDeviceGet(self, device: Any, ordinal: int) -> int:
        device._obj.value = 7
        return ordinal

    def _cuDeviceGetName(self, name: Any, length: int, device: ctypes.c_int) -> int:
        name.value = b"NVIDIA H200"
        return 0 if (length, device.value) == (len(name), 7) else 1

    def _cuDeviceGetAttribute(self, value: Any, attribute: int, device: ctypes.c_int) -> int:
        value._obj.value = {75: 9, 76: 0}[attribute]
        return device.value - 7

    def _cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = 13020
        return 0


def test_asks_the_driver_for_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_module.ctypes, "CDLL", lambda name: Driver())
    assert find_gpu() == Gpu(name="NVIDIA H200", architecture="9.0", cuda_version="13.2")


@pytest.mark.parametrize("call", ["cuInit", "cuDeviceGet", "cuDriverGetVersion"])
def test_a_driver_without_a_gpu_has_none(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_module.ctypes, "CDLL", lambda name: Driver(failing=call))
    assert find_gpu() is None


def test_a_machine_without_a_driver_has_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_module, "_DRIVER", "libcuda-of-nobody.so.1")
    assert find_gpu() is None
