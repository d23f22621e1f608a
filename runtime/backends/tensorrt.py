"""TensorRT itself: a plan on one NVIDIA GPU, with PyCUDA for memory, copies and the stream.

No CUDA graphs: PyCUDA (up to 2026.1) can neither capture nor launch one.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..closing import Closing
from ..engine_sidecar import EngineSidecar, read_engine
from ..errors import BackendError, MissingExtraError
from ..tensorrt_library import in_words, library_log, load_tensorrt
from .base import FAILED, BackendFactory, Tensors, check_names, check_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Buffer:
    """A tensor at the profile's largest batch: pinned memory of the host, and memory of the device."""

    host: NDArray
    device: Any

    @property
    def pinned(self) -> Any:
        """PyCUDA's allocation that the host's array lies in."""
        return self.host.base


class TensorRtBackend(Closing):
    """A plan on a GPU. Threads may share it; their calls run one after the other.

    Args:
        plan: the plan's bytes.
        sidecar: its description, checked before TensorRT sees the plan.
        onnx_sha256: of the network that the plan must have been built from; None: whichever it was.
        device: which GPU, as CUDA counts them.
        allow_host_code: load a version-compatible plan. It carries code that runs on the processor with this
            program's rights: allow it only for plans that you built.

    Raises:
        BackendError: TensorRT or PyCUDA is missing, there is no such GPU, the plan is not the one described
            or cannot run here, or its tensors are not of any batch and else of fixed shape.
    """

    def __init__(
        self,
        plan: bytes,
        *,
        sidecar: EngineSidecar,
        onnx_sha256: str | None = None,
        device: int = 0,
        allow_host_code: bool = False,
    ) -> None:
        self.name = sidecar.flavour
        self._lock = threading.Lock()
        self._batch = sidecar.batch
        self._inputs: dict[str, _Buffer] = {}
        self._outputs: dict[str, _Buffer] = {}
        self._stream: Any = None
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._cuda_context: Any = None
        self._trt, self._cuda = _libraries(sidecar.flavour)
        if sidecar.version_compatible and not allow_host_code:
            raise BackendError(
                "the plan is version-compatible and so carries code for the processor, run only if allowed; "
                "if you built the plan, allow it (--allow-host-code), else build one without "
                "--version-compatible"
            )
        try:
            self._cuda_context, architecture = _open_gpu(self._cuda, device)
            sidecar.check(
                plan,
                onnx_sha256=onnx_sha256,
                flavour=self._trt.__name__,
                flavour_version=self._trt.__version__,
                architecture=architecture,
            )
            with self._on_gpu("load the plan") as errors:
                self._load(plan, errors, allow_host_code=sidecar.version_compatible)
                self._allocate()
        except BaseException:
            with suppress(BackendError):
                self.close()
            raise
        logger.debug("loaded a plan on GPU %d, %s", device, architecture)

    def run(self, inputs: Tensors) -> dict[str, NDArray]:
        """See ``Backend.run``. More or fewer rows than the plan's batch profile are an error."""
        with self._lock:
            if self._context is None:
                raise BackendError("the network is closed; open it again")
            rows = self._rows(inputs)
            with self._on_gpu("run the network") as errors:
                try:
                    self._enqueue(inputs, rows, errors)
                finally:
                    self._stream.synchronize()  # also after an error: the pinned memory is used again
            return {name: buffer.host[:rows].copy() for name, buffer in self._outputs.items()}

    def close(self) -> None:
        """See ``Backend.close``."""
        with self._lock:
            if self._cuda_context is None:
                return
            try:
                with self._on_gpu("free the plan"):
                    self._context = self._engine = self._runtime = self._stream = None
                    for buffer in (*self._inputs.values(), *self._outputs.values()):
                        buffer.device.free()
                        buffer.pinned.free()
            finally:
                self._inputs, self._outputs, self._cuda_context = {}, {}, None

    @contextmanager
    def _on_gpu(self, work: str) -> Iterator[list[str]]:
        """Makes the GPU's context current in this thread; yields TensorRT's errors meanwhile."""
        try:
            self._cuda_context.push()
            try:
                with library_log(self._trt).listening() as errors:
                    yield errors
            finally:
                self._cuda.Context.pop()
        except self._cuda.Error as error:
            raise BackendError(f"{self.name} could not {work}: CUDA said: {error}") from error

    def _load(self, plan: bytes, errors: list[str], *, allow_host_code: bool) -> None:
        self._runtime = self._trt.Runtime(library_log(self._trt))
        self._runtime.engine_host_code_allowed = allow_host_code
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise BackendError(f"{self.name} cannot load the plan: {in_words(errors)}; rebuild it here")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise BackendError(
                f"{self.name} cannot prepare the plan, most often for want of GPU memory: {in_words(errors)}"
            )
        self._stream = self._cuda.Stream()

    def _allocate(self) -> None:
        """Buffers for every tensor, at the addresses that they keep."""
        for i in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(i)
            is_input = self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT
            shape = self._shape(name)
            if is_input:
                self._check_profile(name)
            dtype = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
            buffer = self._buffer((self._batch.max, *shape), dtype)
            (self._inputs if is_input else self._outputs)[name] = buffer
            if not self._context.set_tensor_address(name, int(buffer.device)):
                raise BackendError(f"{self.name} refuses the memory for the tensor {name!r}; {FAILED}")

    def _buffer(self, shape: tuple[int, ...], dtype: np.dtype) -> _Buffer:
        host = self._cuda.pagelocked_empty(shape, dtype)
        try:
            return _Buffer(host, self._cuda.mem_alloc(host.nbytes))
        except self._cuda.Error:
            host.base.free()
            raise

    def _shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape without the batch."""
        batch, *rest = tuple(self._engine.get_tensor_shape(name)) or (0,)
        on_device = self._engine.get_tensor_location(name) == self._trt.TensorLocation.DEVICE
        if batch != -1 or -1 in rest or not on_device:
            raise BackendError(
                f"the plan's tensor {name!r} must be of any batch, else of fixed shape, and on the GPU; "
                f"found {tuple(self._engine.get_tensor_shape(name))}; build the plan with "
                "python -m export.repository --tensorrt ..."
            )
        return tuple(rest)

    def _check_profile(self, name: str) -> None:
        found = tuple(shape[0] for shape in self._engine.get_tensor_profile_shape(name, 0))
        expected = (self._batch.min, self._batch.opt, self._batch.max)
        if found != expected:
            raise BackendError(
                f"the plan takes batches of {found} of {name!r} (at least, tuned for, at most), its sidecar "
                f"says {expected}; build the plan again: python -m export.repository --tensorrt ..."
            )

    def _rows(self, inputs: Tensors) -> int:
        """The batch of checked inputs."""
        check_names(inputs, self._inputs)
        for name, value in inputs.items():
            host = self._inputs[name].host
            if value.dtype != host.dtype or value.shape[1:] != host.shape[1:] or value.ndim != host.ndim:
                raise BackendError(
                    f"the input {name!r} must be {host.dtype} {('N', *host.shape[1:])}; "
                    f"found {value.dtype} {value.shape}"
                )
        rows = check_rows(inputs)
        if not self._batch.min <= rows <= self._batch.max:
            raise BackendError(
                f"the plan takes {self._batch.min} to {self._batch.max} rows at once; found {rows}; "
                "pass them in parts, or build a plan with another batch profile"
            )
        return rows

    def _enqueue(self, inputs: Tensors, rows: int, errors: list[str]) -> None:
        """Copies in, runs, copies out, all in order on the one stream."""
        for name, buffer in self._inputs.items():
            part = buffer.host[:rows]
            np.copyto(part, inputs[name])
            self._cuda.memcpy_htod_async(buffer.device, part, self._stream)
            if not self._context.set_input_shape(name, part.shape):
                raise BackendError(
                    f"{self.name} refuses {part.shape} for {name!r}: {in_words(errors)}; {FAILED}"
                )
        if not self._context.execute_async_v3(self._stream.handle):
            raise BackendError(f"the network failed on {self.name}: {in_words(errors)}; {FAILED}")
        for buffer in self._outputs.values():
            self._cuda.memcpy_dtoh_async(buffer.host[:rows], buffer.device, self._stream)


def plans_in(folder: Path, *, device: int = 0, allow_host_code: bool = False) -> BackendFactory:
    """Runs each network of a bundle from its plan, ``protect`` from ``folder/protect.plan``.

    The plan must have been built from the bundle's very ONNX file. The restorer has no such file, for it is
    never written in the clear.

    Returns:
        What a pipeline takes as its ``backend``. It raises ``BundleError`` if a file is missing or
        malformed, and ``BackendError`` like ``TensorRtBackend``.
    """

    def load(name: str, model: bytes) -> TensorRtBackend:
        plan, sidecar = read_engine(folder / f"{name}.plan")
        return TensorRtBackend(
            plan,
            sidecar=sidecar,
            onnx_sha256=hashlib.sha256(model).hexdigest(),
            device=device,
            allow_host_code=allow_host_code,
        )

    return load


def _libraries(flavour: str) -> tuple[ModuleType, Any]:
    try:
        trt = load_tensorrt(flavour)
    except MissingExtraError as error:
        raise BackendError(str(error)) from error
    try:
        import pycuda.driver as cuda
    except ImportError as error:
        raise BackendError(
            f"PyCUDA cannot be imported: {error}; it needs NVIDIA's driver, and, to be compiled, CUDA's "
            "headers; run in the checkout: pip install '.[gpu]'"
        ) from error
    return trt, cuda


def _open_gpu(cuda: Any, device: int) -> tuple[Any, str]:
    """The GPU's primary context, which TensorRT uses too, and its compute capability."""
    try:
        cuda.init()
        gpu = cuda.Device(device)
        major, minor = gpu.compute_capability()
        return gpu.retain_primary_context(), f"{major}.{minor}"
    except cuda.Error as error:
        raise BackendError(
            f"CUDA has no GPU {device}: {error}; check the driver with nvidia-smi, or use the backend ort-cpu"
        ) from error
