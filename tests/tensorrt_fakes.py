"""A GPU in Python: the part of ``tensorrt`` and ``pycuda.driver`` that the backend uses, and their rules.

Work on a stream happens when the stream is synchronised, not before, in the order it was queued; every call
needs the GPU's context in its thread; memory starts as rubbish, and is an error to touch once freed. What a
program gets wrong shows in its results or as an ``AssertionError``. The network is any function of arrays,
by default ``protected = faces + 10 * strength`` and ``mean = the mean of faces``.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.manifest import ModelFile

from .triton_fakes import model, tensor

RUBBISH = 0xEE
PLAN = b"a plan"
SIDE = 4


def _add(inputs: Mapping[str, NDArray]) -> dict[str, NDArray]:
    faces, strength = inputs["faces"], inputs["strength"]
    added = (10 * strength[:, :, None, None]).astype(np.uint8)
    return {"protected": faces + added, "mean": faces.mean((1, 2, 3), dtype=np.float32)[:, None]}


@dataclass(frozen=True)
class FakeNetwork:
    """What a plan computes: its tensors as a manifest describes them, and the function."""

    tensors: ModelFile
    run: Callable[[Mapping[str, NDArray]], Mapping[str, NDArray]]


ADDING = FakeNetwork(
    model(
        [tensor("faces", SIDE, SIDE, 3, dtype="uint8"), tensor("strength", 1)],
        [tensor("protected", SIDE, SIDE, 3, dtype="uint8"), tensor("mean", 1)],
    ),
    _add,
)


class Pinned(bytearray):
    """PyCUDA's PagelockedHostAllocation."""

    gpu: FakeGpu

    def free(self) -> None:
        self.gpu.current()
        assert self in self.gpu.pinned, "freed twice"
        self.gpu.pinned.remove(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__  # type: ignore[assignment]


class FakeGpu:
    """One GPU, and the modules that drive it.

    Attributes:
        memory: live allocations by address.
        pinned: live allocations of the host.
        loaded: plans that TensorRT was given.
        allocations: how many allocations of the device there ever were.
        fails: names of calls that fail from now on.
        shapes: tensors that have another shape than their network's description says.
    """

    def __init__(
        self, batch: tuple[int, int, int] = (1, 2, 4), networks: Mapping[bytes, FakeNetwork] | None = None
    ) -> None:
        self.memory: dict[int, bytearray] = {}
        self.pinned: set[Pinned] = set()
        self.loaded: list[bytes] = []
        self.allocations = 0
        self.contexts = 0
        self.fails: set[str] = set()
        self.batch = batch
        self.host_tensors: set[str] = set()
        self.networks = {PLAN: ADDING} if networks is None else networks
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.host_code_allowed: bool | None = None
        self.local = threading.local()
        self.cuda = cuda_module(self)
        self.tensorrt = tensorrt_module(self)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
        """Lets ``import tensorrt`` and ``import pycuda.driver`` find this GPU."""
        package: Any = ModuleType("pycuda")
        package.driver = self.cuda
        monkeypatch.setitem(sys.modules, "tensorrt", self.tensorrt)
        monkeypatch.setitem(sys.modules, "pycuda", package)
        monkeypatch.setitem(sys.modules, "pycuda.driver", self.cuda)
        return self

    @property
    def stack(self) -> list[object]:
        """The contexts pushed in this thread."""
        if not hasattr(self.local, "stack"):
            self.local.stack = []
        return self.local.stack

    def current(self) -> None:
        assert self.stack, "no context is current in this thread"

    def fail(self, call: str) -> bool:
        return call in self.fails

    def at(self, address: int, nbytes: int) -> memoryview:
        assert address in self.memory, "memory that is not allocated"
        assert nbytes <= len(self.memory[address]), "beyond the end of an allocation"
        return memoryview(self.memory[address])[:nbytes]


def cuda_module(gpu: FakeGpu) -> ModuleType:
    """``pycuda.driver``."""
    module: Any = ModuleType("pycuda.driver")

    class Error(Exception):
        pass

    class Context:
        def push(self) -> None:
            gpu.stack.append(self)

        @staticmethod
        def pop() -> None:
            gpu.current()
            gpu.stack.pop()

    class Device:
        def __init__(self, number: int) -> None:
            if number > 0:
                raise Error("cuDeviceGet failed: invalid device ordinal")

        def compute_capability(self) -> tuple[int, int]:
            return (9, 0)

        def retain_primary_context(self) -> Context:
            gpu.contexts += 1
            return Context()

    class Stream:
        def __init__(self) -> None:
            gpu.current()
            self.queue: list[Callable[[], None]] = []
            self.handle = id(self)
            streams[self.handle] = self

        def synchronize(self) -> None:
            gpu.current()
            if gpu.fail("synchronize"):
                raise Error("cuStreamSynchronize failed: an illegal memory access was encountered")
            while self.queue:
                time.sleep(0.0005)  # other threads run, as they do while a real GPU works
                self.queue.pop(0)()

    class DeviceAllocation:
        def __init__(self, nbytes: int) -> None:
            self.address = 4096 * (gpu.allocations + 1)
            gpu.allocations += 1
            gpu.memory[self.address] = bytearray([RUBBISH]) * nbytes

        def __int__(self) -> int:
            return self.address

        def free(self) -> None:
            gpu.current()
            del gpu.memory[self.address]

    def mem_alloc(nbytes: int) -> DeviceAllocation:
        gpu.current()
        if gpu.fail("mem_alloc") and gpu.allocations >= 2:
            raise Error("cuMemAlloc failed: out of memory")
        return DeviceAllocation(nbytes)

    def pagelocked_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        gpu.current()
        memory = Pinned([RUBBISH] * int(np.prod(shape) * np.dtype(dtype).itemsize))
        memory.gpu = gpu
        gpu.pinned.add(memory)
        return np.ndarray(shape, dtype, buffer=memory)

    def check_pinned(array: np.ndarray) -> None:
        gpu.current()
        assert array.flags.c_contiguous, "copies need contiguous memory"
        assert isinstance(array.base, np.ndarray), "not a part of a pinned buffer"
        assert array.base.base in gpu.pinned, "asynchronous copies need pinned memory"

    def memcpy_htod_async(dest: DeviceAllocation, src: np.ndarray, stream: Stream) -> None:
        check_pinned(src)
        target = gpu.at(int(dest), src.nbytes)
        stream.queue.append(lambda: target.__setitem__(slice(None), src.tobytes()))

    def memcpy_dtoh_async(dest: np.ndarray, src: DeviceAllocation, stream: Stream) -> None:
        check_pinned(dest)
        source = gpu.at(int(src), dest.nbytes)
        stream.queue.append(lambda: np.copyto(dest, np.frombuffer(source, dest.dtype).reshape(dest.shape)))

    def init() -> None:
        if gpu.fail("init"):
            raise Error("cuInit failed: no CUDA-capable device is detected")

    streams: dict[int, Stream] = {}
    for thing in (Error, Context, Device, Stream, mem_alloc, pagelocked_empty, init):
        setattr(module, thing.__name__, thing)
    module.memcpy_htod_async, module.memcpy_dtoh_async = memcpy_htod_async, memcpy_dtoh_async
    module.streams = streams
    return module


def tensorrt_module(gpu: FakeGpu) -> ModuleType:
    """``tensorrt``."""
    trt: Any = ModuleType("tensorrt")
    trt.__version__ = "10.3.0"
    trt.TensorIOMode = Enum("TensorIOMode", ["INPUT", "OUTPUT"])
    trt.TensorLocation = Enum("TensorLocation", ["DEVICE", "HOST"])
    trt.nptype = lambda dtype: dtype

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class IExecutionContext:
        def __init__(self, engine: ICudaEngine) -> None:
            self._engine = engine
            self._addresses: dict[str, int] = {}
            self._rows: dict[str, int] = {}

        def set_tensor_address(self, name: str, memory: int) -> bool:
            if gpu.fail("set_tensor_address"):
                return False
            self._addresses[name] = memory
            return name in self._engine._specs

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            least, _, most = gpu.batch
            rows, *rest = shape
            fits = tuple(rest) == self._engine.get_tensor_shape(name)[1:] and least <= rows <= most
            self._rows[name] = rows
            return fits and not gpu.fail("set_input_shape")

        def execute_async_v3(self, stream_handle: int) -> bool:
            gpu.current()
            network, specs = self._engine._network, self._engine._specs
            assert self._addresses.keys() == specs.keys(), "a tensor has no address"
            assert self._rows.keys() == {spec.name for spec in network.tensors.inputs}, (
                "an input has no shape"
            )
            (rows,) = set(self._rows.values())
            if gpu.fail("execute_async_v3"):
                gpu.log.log(ILogger.ERROR, "enqueueV3: misaligned address")
                return False

            def run() -> None:
                arrays = {name: self._array(name, rows) for name in specs}
                inputs = {spec.name: arrays[spec.name].copy() for spec in network.tensors.inputs}
                for name, values in network.run(inputs).items():
                    assert values.dtype == arrays[name].dtype
                    arrays[name][:] = values

            gpu.cuda.streams[stream_handle].queue.append(run)
            self._rows = {}  # each run must say its shapes
            return True

        def _array(self, name: str, rows: int) -> NDArray:
            shape, dtype = self._engine.get_tensor_shape(name)[1:], self._engine.get_tensor_dtype(name)
            size = rows * int(np.prod(shape)) * np.dtype(dtype).itemsize
            return np.frombuffer(gpu.at(self._addresses[name], size), dtype).reshape(rows, *shape)

    class ICudaEngine:
        def __init__(self, plan: bytes) -> None:
            self._network = gpu.networks[plan]
            tensors = self._network.tensors
            self._specs = {spec.name: spec for spec in (*tensors.inputs, *tensors.outputs)}

        @property
        def num_io_tensors(self) -> int:
            return len(self._specs)

        def get_tensor_name(self, index: int) -> str:
            return list(self._specs)[index]

        def get_tensor_mode(self, name: str) -> Any:
            goes_in = name in {spec.name for spec in self._network.tensors.inputs}
            return trt.TensorIOMode.INPUT if goes_in else trt.TensorIOMode.OUTPUT

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return gpu.shapes.get(name, self._specs[name].shape)

        def get_tensor_dtype(self, name: str) -> Any:
            return self._specs[name].dtype

        def get_tensor_location(self, name: str) -> Any:
            return trt.TensorLocation.HOST if name in gpu.host_tensors else trt.TensorLocation.DEVICE

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
            assert self.get_tensor_mode(name) == trt.TensorIOMode.INPUT, "outputs have no profile"
            assert profile_index == 0
            return [(rows, *self.get_tensor_shape(name)[1:]) for rows in gpu.batch]

        def create_execution_context(self) -> IExecutionContext | None:
            gpu.current()
            return None if gpu.fail("create_execution_context") else IExecutionContext(self)

    class Runtime:
        engine_host_code_allowed = False

        def __init__(self, logger: Any) -> None:
            gpu.current()
            gpu.log = logger

        def deserialize_cuda_engine(self, plan: bytes) -> ICudaEngine | None:
            gpu.current()
            gpu.loaded.append(plan)
            gpu.host_code_allowed = self.engine_host_code_allowed
            if gpu.fail("deserialize_cuda_engine"):
                gpu.log.log(ILogger.ERROR, "deserializeCudaEngine: magic tag does not match")
                return None
            return ICudaEngine(plan)

    for thing in (ILogger, IExecutionContext, ICudaEngine, Runtime):
        setattr(trt, thing.__name__, thing)
    return trt
