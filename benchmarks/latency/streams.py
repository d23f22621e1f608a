"""OpenVINO with a stream for every thread: each core has faces of its own and waits for no other core."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.backends import Tensors
from runtime.backends.base import check_rows
from runtime.errors import BackendError


class StreamsBackend:
    """A network whose batch is divided among as many requests at once as there are threads.

    Args:
        model: the bytes of an ONNX file; all but its quantised layers compute in bfloat16.
        threads: CPU threads, and streams.

    Raises:
        BackendError: OpenVINO is not installed, or cannot load the network.
    """

    def __init__(self, model: bytes, *, threads: int) -> None:
        try:
            import openvino
        except ImportError as error:
            raise BackendError("OpenVINO is not installed; run: pip install '.[openvino]'") from error
        self._openvino, self._core, self._threads = openvino, openvino.Core(), threads
        if "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise BackendError("this CPU does not compute in bf16")
        self._graph = self._core.read_model(model)
        self._output = self._graph.output(0).get_any_name()
        self._requests: dict[int, list[Any]] = {}

    def run(self, inputs: Tensors) -> dict[str, NDArray]:
        """See ``Backend.run``. Rows that the threads cannot share evenly run on one."""
        rows = check_rows(inputs)
        share = rows // self._threads if rows % self._threads == 0 else rows
        if share not in self._requests:
            self._requests[share] = self._compile(share, rows // share)
        requests = self._requests[share]
        for number, request in enumerate(requests):
            part = slice(number * share, (number + 1) * share)
            request.start_async({name: np.ascontiguousarray(values[part]) for name, values in inputs.items()})
        for request in requests:
            request.wait()
        return {self._output: np.concatenate([r.get_output_tensor(0).data.copy() for r in requests])}

    def _compile(self, batch: int, requests: int) -> list[Any]:
        graph = self._graph.clone()
        shapes = {port.get_any_name(): list(port.get_partial_shape())[1:] for port in graph.inputs}
        graph.reshape({name: self._openvino.PartialShape([batch, *rest]) for name, rest in shapes.items()})
        options = {
            "INFERENCE_PRECISION_HINT": "bf16",
            "INFERENCE_NUM_THREADS": str(self._threads),
            "NUM_STREAMS": str(self._threads),
        }
        compiled = self._core.compile_model(graph, "CPU", options)
        return [compiled.create_infer_request() for _ in range(requests)]
