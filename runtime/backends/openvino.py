"""OpenVINO on the CPU."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..closing import Closing
from ..errors import BackendError
from ..subpixel import SubpixelForm
from .base import FAILED, Tensors, check_names, check_rows

Computing = Literal["fp32", "bf16"]
_TYPES = {"fp32": "f32", "bf16": "bf16"}

# A program is compiled for one batch size: with the batch left open it runs up to a third slower. Other
# batches are made of these; beyond the largest, a face costs no less.
BATCH_SIZES = (8, 4, 2, 1)

logger = logging.getLogger(__name__)

# Says in a network's metadata that what its convolutions read is quantised around zero.
ACTIVATIONS = "activations"


class OpenVinoBackend(Closing):
    """A network in OpenVINO, compiled for one face at once and for the rest of ``BATCH_SIZES`` when needed.

    Args:
        model: the bytes of an ONNX file. Quantised layers compute in int8, in either precision.
        precision: of all other layers, ``fp32`` or ``bf16``.
        threads: CPU threads, ``None`` for OpenVINO's own choice.
        upsampling: form of the convolutions that take the place of transposed ones, None to keep these.

    Raises:
        BackendError: OpenVINO is not installed, the CPU does not compute in the precision, or the model
            cannot be loaded.
    """

    def __init__(
        self,
        model: bytes,
        *,
        precision: Computing = "fp32",
        threads: int | None = None,
        upsampling: SubpixelForm | None = "2x2",
    ) -> None:
        try:
            import openvino
        except ImportError as error:
            raise BackendError(
                "OpenVINO is not installed; run in the checkout: pip install '.[openvino]'"
            ) from error
        from .openvino_graph import replace_transposed

        if precision not in _TYPES:
            raise BackendError(f"unknown precision {precision!r}; known: {', '.join(_TYPES)}")
        try:
            core = openvino.Core()
            able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        except Exception as error:  # OpenVINO raises plain RuntimeErrors
            raise BackendError(f"OpenVINO cannot use this CPU: {error}; use ort-cpu") from error
        if precision == "bf16" and "BF16" not in able:
            raise BackendError(
                f"this CPU does not compute in bf16 (OpenVINO lists: {', '.join(able)}); use openvino-fp32"
            )
        options = {"INFERENCE_PRECISION_HINT": _TYPES[precision], "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = str(threads)
            # Threads that are pinned begin at the first core: of several programs that divide the cores, all
            # would share it.
            options["ENABLE_CPU_PINNING"] = "YES" if threads >= len(os.sched_getaffinity(0)) else "NO"
        try:
            graph = core.read_model(model)
            around_zero = graph.has_rt_info(["framework", ACTIVATIONS])
            if upsampling is not None:
                replace_transposed(graph, upsampling)
        except Exception as error:  # as above
            raise BackendError(
                f"OpenVINO cannot load the network: {error}; use ort-cpu, or update OpenVINO"
            ) from error
        if around_zero:
            raise BackendError(
                "the network is quantised around zero, for TensorRT, and far off in OpenVINO; use ort-cpu, "
                "or export it with --precision int8"
            )
        self.name = f"openvino-{precision}"
        self._core, self._options = core, options
        self._graph: Any = graph
        self._programs: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._inputs = {port.get_any_name(): port.get_partial_shape() for port in graph.inputs}
        self._outputs = tuple(port.get_any_name() for port in graph.outputs)
        self._program(1)  # what cannot be compiled is found out now
        logger.debug("loaded a network in OpenVINO %s", openvino.__version__)

    def run(self, inputs: Tensors) -> dict[str, NDArray]:
        """See ``Backend.run``. Calls of several threads run one after the other."""
        check_names(inputs, self._inputs)
        rows = check_rows(inputs)
        parts = []
        with self._lock:
            if self._graph is None:
                raise BackendError("the network is closed; open it again")
            for part in _parts(rows):
                program = self._program(part.stop - part.start)
                batch = {name: np.ascontiguousarray(values[part]) for name, values in inputs.items()}
                parts.append(self._infer(program, batch))
        return {name: np.concatenate(values) for name, *values in zip(self._outputs, *parts, strict=True)}

    def _infer(self, request: Any, batch: Tensors) -> list[NDArray]:
        try:
            outputs = request.infer(batch)
            return [outputs[position].copy() for position in range(len(self._outputs))]
        except Exception as error:  # as above
            raise BackendError(f"the network failed on {self.name}: {error}; {FAILED}") from error

    def _program(self, batch: int) -> Any:
        """The inference request of one batch size."""
        if batch not in self._programs:
            import openvino

            try:
                graph = self._graph.clone()
                graph.reshape(
                    {
                        name: openvino.PartialShape([batch, *list(shape)[1:]])
                        for name, shape in self._inputs.items()
                    }
                )
                compiled = self._core.compile_model(graph, "CPU", self._options)
            except Exception as error:  # as above
                raise BackendError(f"OpenVINO cannot compile the network: {error}; use ort-cpu") from error
            self._programs[batch] = compiled.create_infer_request()
        return self._programs[batch]

    def close(self) -> None:
        """See ``Backend.close``."""
        with self._lock:
            self._graph = None
            self._programs.clear()


def _parts(rows: int) -> Iterator[slice]:
    """A batch in pieces of ``BATCH_SIZES``, the largest first."""
    start = 0
    for size in BATCH_SIZES:
        while rows - start >= size:
            yield slice(start, start + size)
            start += size
