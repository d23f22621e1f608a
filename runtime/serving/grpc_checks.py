"""What a request to the public gRPC door may hold. Whatever Triton would be told of is checked here first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..manifest import ModelFile, TensorSpec

DATA_TYPES = {"uint8": "UINT8", "float32": "FP32"}
# They change when a request is worked on, not how; the last one is of clients that also know streams.
PARAMETERS = frozenset({"timeout", "priority", "triton_enable_empty_final_response"})
SHARED_MEMORY = frozenset(
    {"shared_memory_region", "shared_memory_offset", "shared_memory_byte_size", "binary_data_size"}
)
# Names and shapes around the tensors.
OVERHEAD_BYTES = 64 * 1024
_SHOWN_CHARS = 64


class RefusedError(Exception):
    """A request is not passed on. ``code`` is the name of a gRPC status."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def row_bytes(spec: TensorSpec) -> int:
    """Size of a tensor for one face."""
    return math.prod(spec.shape[1:]) * np.dtype(spec.dtype).itemsize


def message_limit(models: Mapping[str, ModelFile], max_batch: int) -> int:
    """Size of the largest request and answer."""
    sides = [specs for entry in models.values() for specs in (entry.inputs, entry.outputs)]
    return OVERHEAD_BYTES + max_batch * max(sum(map(row_bytes, specs)) for specs in sides)


def check_model(models: Mapping[str, ModelFile], name: str) -> ModelFile:
    """The entry of a model that is served.

    Raises:
        RefusedError: NOT_FOUND.
    """
    if name not in models:
        raise RefusedError("NOT_FOUND", f"unknown model {_short(name)}; this server has: {', '.join(models)}")
    return models[name]


def check_infer(request: Any, entry: ModelFile, max_batch: int, *, shared_memory: bool) -> int:
    """Checks a ``ModelInferRequest`` to a model.

    Triton itself takes a batch's size from the shape alone and does not compare it with the data before it
    fuses requests, so that a wrong one would fail with all that it was fused with.

    Returns:
        How many faces it holds.

    Raises:
        RefusedError: INVALID_ARGUMENT, and what is wrong.
    """
    _only(request.parameters, PARAMETERS, "the request")
    specs = {spec.name: spec for spec in entry.inputs}
    names = [tensor.name for tensor in request.inputs]
    if sorted(names) != sorted(specs):
        raise _invalid(f"expected the inputs {', '.join(specs)}, each once; found {_short(', '.join(names))}")
    rows = {_rows(tensor, specs[tensor.name], max_batch) for tensor in request.inputs}
    if len(rows) != 1:
        raise _invalid(f"expected as many rows in every input, found {', '.join(map(str, sorted(rows)))}")
    (count,) = rows
    raw = iter(request.raw_input_contents)
    for tensor in request.inputs:
        spec = specs[tensor.name]
        if tensor.HasField("contents"):
            raise _invalid(f"expected {tensor.name!r} in raw_input_contents, found a list of numbers")
        if "shared_memory_region" in tensor.parameters:
            _check_region(tensor, count * row_bytes(spec), allowed=shared_memory)
        else:
            _only(tensor.parameters, frozenset(), f"the input {tensor.name!r}")
            _check_raw(tensor.name, spec, next(raw, b""), count)
    if next(raw, None) is not None:
        raise _invalid("expected as many raw_input_contents as inputs without shared memory, found more")
    _check_outputs(request, entry, shared_memory)
    return count


def _rows(tensor: Any, spec: TensorSpec, max_batch: int) -> int:
    shape, kind = tuple(tensor.shape), DATA_TYPES[spec.dtype]
    if tensor.datatype != kind or shape[1:] != spec.shape[1:]:
        expected = ", ".join(map(str, ("faces", *spec.shape[1:])))
        raise _invalid(
            f"expected {spec.name!r} to be {kind} ({expected}), found {_short(tensor.datatype)} "
            f"{_short(str(shape))}"
        )
    if not 1 <= shape[0] <= max_batch:
        raise _invalid(f"expected 1 to {max_batch} faces in a request, found {shape[0]}")
    rows: int = shape[0]
    return rows


def _check_raw(name: str, spec: TensorSpec, raw: bytes, rows: int) -> None:
    if len(raw) != (size := rows * row_bytes(spec)):
        raise _invalid(f"expected {size} bytes of {name!r}, found {len(raw)}")
    if spec.dtype == "float32" and not np.isfinite(np.frombuffer(raw, np.float32)).all():
        raise _invalid(f"expected finite numbers in {name!r}, found infinities or NaN")


def _check_region(tensor: Any, size: int, *, allowed: bool) -> None:
    if not allowed:
        raise _invalid("this server takes no shared memory; send the faces in the request")
    _only(tensor.parameters, SHARED_MEMORY, f"{tensor.name!r}")
    if (found := tensor.parameters["shared_memory_byte_size"].int64_param) != size:
        raise _invalid(f"expected {size} bytes of {tensor.name!r} in shared memory, found {found}")


def _check_outputs(request: Any, entry: ModelFile, shared_memory: bool) -> None:
    known = [spec.name for spec in entry.outputs]
    for output in request.outputs:
        if output.name not in known:
            raise _invalid(f"expected outputs among {', '.join(known)}, found {_short(output.name)}")
        _only(
            output.parameters, SHARED_MEMORY if shared_memory else frozenset(), f"the output {output.name!r}"
        )


def _only(parameters: Any, allowed: frozenset[str], where: str) -> None:
    if unknown := sorted(set(parameters) - allowed):
        expected = ", ".join(sorted(allowed)) or "none"
        raise _invalid(f"expected parameters of {where}: {expected}; found {_short(', '.join(unknown))}")


def _invalid(message: str) -> RefusedError:
    return RefusedError("INVALID_ARGUMENT", message)


def _short(text: str) -> str:
    """What came from outside: quoted and bounded."""
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "...")
