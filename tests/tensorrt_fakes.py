"""A GPU in Python: the part of ``tensorrt`` and ``pycuda.driver`` that the backend uses, and their rules.

Work on a stream happens when the stream is synchronised, not before, in the order it was queued; every call
needs the GPU's context in its thread; memory starts as rubbish, and is an error to touch once freed. What a
program gets wrong shows in its results or as an ``AssertionError``. The network is
``protected = faces + 10 * strength`` and ``mean = the mean of faces``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import Enum
from types import ModuleType
from typing import Any

import numpy as np

RUBBISH = 0xEE
PLAN = b"a plan"
SIDE = 4


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
        shapes: the tensors of the network, all of any batch unless a test says otherwise.
    """

    def __init__(self, batch: tuple[int, int, int] = (1, 2, 4)) -> None:
        self.memory: dict[int, bytearray] = {}
        self.pinned: set[Pinned] = set()
        self.loaded: list[bytes] = []
        self.allocations = 0
        self.contexts = 0
        self.fails: set[str] = set()
        self.batch = batch
        self.host_tensors: set[str] = set()
        self.shapes = {
            "faces": (-1, SIDE, SIDE, 3),
            "strength": (-1, 1),
            "protected": (-1, SIDE, SIDE, 3),
            "mean": (-1, 1),
        }
        self.dtypes = {"faces": np.uint8, "strength": np.float32, "protected": np.uint8, "mean": np.float32}
        self.host_code_allowed: bool | None = None
        self.local = threading.local()
        self.cuda = cuda_module(self)
        self.tensorrt = tensorrt_module(self)

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
    inputs = ("faces", "strength")

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class IExecutionContext:
        def __init__(self) -> None:
            self.addresses: dict[str, int] = {}
            self.shapes: dict[str, tuple[int, ...]] = {}

        def set_tensor_address(self, name: str, memory: int) -> bool:
            if gpu.fail("set_tensor_address"):
                return False
            self.addresses[name] = memory
            return name in gpu.shapes

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            least, _, most = gpu.batch
            fits = tuple(shape[1:]) == gpu.shapes[name][1:] and least <= shape[0] <= most
            self.shapes[name] = tuple(shape)
            return fits and not gpu.fail("set_input_shape")

        def execute_async_v3(self, stream_handle: int) -> bool:
            gpu.current()
            assert self.addresses.keys() == gpu.shapes.keys(), "a tensor has no address"
            assert self.shapes.keys() == set(inputs), "an input has no shape"
            (rows,) = {shape[0] for shape in self.shapes.values()}
            if gpu.fail("execute_async_v3"):
                gpu.log.log(ILogger.ERROR, "enqueueV3: misaligned address")
                return False

            def network() -> None:
                faces, strength, protected, mean = (
                    np.frombuffer(self.tensor(name, rows), gpu.dtypes[name]).reshape(
                        rows, *gpu.shapes[name][1:]
                    )
                    for name in gpu.shapes
                )
                protected[:] = faces + (10 * strength[:, :, None, None]).astype(np.uint8)
                mean[:] = faces.mean((1, 2, 3))[:, None]

            gpu.cuda.streams[stream_handle].queue.append(network)
            self.shapes = {}  # each run must say its shapes
            return True

        def tensor(self, name: str, rows: int) -> memoryview:
            size = int(np.prod(gpu.shapes[name][1:])) * np.dtype(gpu.dtypes[name]).itemsize
            return gpu.at(self.addresses[name], rows * size)

    class ICudaEngine:
        num_io_tensors = len(gpu.shapes)

        def get_tensor_name(self, index: int) -> str:
            return list(gpu.shapes)[index]

        def get_tensor_mode(self, name: str) -> Any:
            return trt.TensorIOMode.INPUT if name in inputs else trt.TensorIOMode.OUTPUT

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return gpu.shapes[name]

        def get_tensor_dtype(self, name: str) -> Any:
            return gpu.dtypes[name]

        def get_tensor_location(self, name: str) -> Any:
            return trt.TensorLocation.HOST if name in gpu.host_tensors else trt.TensorLocation.DEVICE

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
            assert name in inputs, "outputs have no profile"
            assert profile_index == 0
            return [(rows, *gpu.shapes[name][1:]) for rows in gpu.batch]

        def create_execution_context(self) -> IExecutionContext | None:
            gpu.current()
            return None if gpu.fail("create_execution_context") else IExecutionContext()

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
            return ICudaEngine()

    for thing in (ILogger, IExecutionContext, ICudaEngine, Runtime):
        setattr(trt, thing.__name__, thing)
    return trt
