"""A Triton backend in Python that runs ONNX files through ``runtime.backends``.

Triton's stub imports this file as ``model`` from a copy in the backend's folder. Requests that the dynamic
batcher has put together run as one batch. A request with a number that is not finite gets an error for
itself alone.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from runtime.backends.lanes import create_for_batches
from runtime.errors import BackendError

STAGES = ("gather", "compute", "split")
REPORT_EVERY_S = 1.0
FAMILIES = {
    "erasablemask_faces_total": "Faces computed.",
    "erasablemask_batches_total": "Fused batches computed.",
    "erasablemask_stage_seconds_total": "Seconds spent gathering requests, computing, splitting results.",
}


class TritonPythonModel:
    """One instance of a model, in a process of its own; the stub calls its methods one after the other."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the network.

        Args:
            args: Triton's; ``model_repository`` is the model's folder.

        Raises:
            BackendError: the file is no network, or the backend cannot be had.
            OSError: the file cannot be read.
        """
        config = json.loads(args["model_config"])
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._outputs = {
            tensor["name"]: tuple(int(size) for size in tensor["dims"]) for tensor in config["output"]
        }
        file = config.get("default_model_filename") or "model.onnx"
        path = Path(args["model_repository"], args["model_version"], file)
        threads = os.environ.get("ERASABLEMASK_STUB_THREADS")
        self._backend = create_for_batches(
            os.environ["ERASABLEMASK_STUB_BACKEND"],
            path.read_bytes(),
            threads=int(threads) if threads else None,
        )
        self._metrics = Metrics(args["model_name"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers every request, in order; a network that fails answers them all with the error."""
        started = time.perf_counter()
        tensors = [self._tensors(request) for request in requests]
        faults = [not_finite(arrays) for arrays in tensors]
        sound = [arrays for arrays, fault in zip(tensors, faults, strict=True) if fault is None]
        try:
            rows, outputs = [], {}
            gathered = computed = started
            if sound:
                rows = [len(arrays[self._inputs[0]]) for arrays in sound]
                batch = {name: joined([arrays[name] for arrays in sound]) for name in self._inputs}
                gathered = time.perf_counter()
                outputs = self._run(batch, sum(rows))
                computed = time.perf_counter()
        except BackendError as error:
            return [failure(str(error), pb_utils.TritonError.INTERNAL) for _ in requests]
        answers = iter(self._split(outputs, rows))
        responses = [
            next(answers) if fault is None else failure(fault, pb_utils.TritonError.INVALID_ARG)
            for fault in faults
        ]
        if sound:
            times = (gathered - started, computed - gathered, time.perf_counter() - computed)
            self._metrics.count(sum(rows), times)
        return responses

    def finalize(self) -> None:
        """Frees the network."""
        self._backend.close()

    def _tensors(self, request: Any) -> dict[str, NDArray]:
        return {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}

    def _run(self, batch: dict[str, NDArray], rows: int) -> dict[str, NDArray]:
        """Raises ``BackendError`` also if an output is not what the configuration promises to clients."""
        outputs = self._backend.run(batch)
        for name, dims in self._outputs.items():
            if name not in outputs or outputs[name].shape != (rows, *dims):
                found = outputs[name].shape if name in outputs else "none"
                raise BackendError(f"expected the output {name!r} of {(rows, *dims)}, found {found}")
        return outputs

    def _split(self, outputs: dict[str, NDArray], rows: list[int]) -> list[Any]:
        """Each request's rows, copied: a view would keep the whole batch."""
        responses, start = [], 0
        for count in rows:
            part = slice(start, start + count)
            responses.append(
                pb_utils.InferenceResponse(
                    [
                        pb_utils.Tensor(name, np.ascontiguousarray(outputs[name][part]))
                        for name in self._outputs
                    ]
                )
            )
            start += count
        return responses


class Metrics:
    """Prometheus counters beside Triton's own: faces, batches, and seconds by stage.

    Each report is a message to Triton, which a request would have to wait for: so they are sent together,
    once a second, with the first batch after that. The supervisor's probes bring a batch every few seconds.
    """

    def __init__(self, model: str) -> None:
        # Triton forgets a family, and with it its metrics, when nobody holds it any more.
        self._families = [family(name, description) for name, description in FAMILIES.items()]
        faces, batches, seconds = self._families
        self._metrics = [
            faces.Metric(labels={"model": model}),
            batches.Metric(labels={"model": model}),
            *(seconds.Metric(labels={"model": model, "stage": stage}) for stage in STAGES),
        ]
        self._unsent = [0.0] * len(self._metrics)
        self._sent_at = -REPORT_EVERY_S

    def count(self, faces: int, seconds: tuple[float, ...]) -> None:
        """Adds one batch."""
        self._unsent = [old + new for old, new in zip(self._unsent, (faces, 1, *seconds), strict=True)]
        if time.monotonic() - self._sent_at < REPORT_EVERY_S:
            return
        for metric, value in zip(self._metrics, self._unsent, strict=True):
            metric.increment(value)
        self._unsent = [0.0] * len(self._metrics)
        self._sent_at = time.monotonic()


def family(name: str, description: str) -> Any:
    """Counters of this process; Triton adds up those of the same name and labels."""
    return pb_utils.MetricFamily(name=name, description=description, kind=pb_utils.MetricFamily.COUNTER)


def not_finite(arrays: dict[str, NDArray]) -> str | None:
    """What is wrong with a request's numbers, None if they are all finite."""
    for name, values in arrays.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            return f"expected finite numbers in {name!r}, found NaN or infinity"
    return None


def joined(parts: list[NDArray]) -> NDArray:
    """Several requests' rows as one batch."""
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def failure(message: str, code: Any) -> Any:
    """A response that is an error; its code tells clients whose fault it is."""
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(message, code))
