"""What a request to the public gRPC door may hold. Whatever Triton would be told of is checked here first."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..backends.triton_wire import DATA_TYPES
from ..manifest import ModelFile, TensorSpec

# Parameter -> the kinds that Triton takes for it.
Kinds = Mapping[str, tuple[str, ...]]
# Triton's queue heeds neither of the first two here, but clients send them; the last one is of clients that
# also know streams.
PARAMETERS: Kinds = {
    "timeout": ("int64_param", "uint64_param"),
    "priority": ("int64_param", "uint64_param"),
    "triton_enable_empty_final_response": ("bool_param",),
}
SHARED_MEMORY: Kinds = {
    "shared_memory_region": ("string_param",),
    "shared_memory_offset": ("int64_param",),
    "shared_memory_byte_size": ("int64_param",),
}
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


def check_known(message: Any) -> None:
    """Checks that a parsed message has no fields beyond those of the protocol here, at any depth.

    Triton may know more, and messages are passed on as the bytes they came as.

    Raises:
        RefusedError: INVALID_ARGUMENT.
    """
    size = message.ByteSize()
    message.DiscardUnknownFields()
    if unknown := size - message.ByteSize():
        raise _invalid(f"expected only fields of this protocol, found {unknown} bytes of others")


def check_model(models: Mapping[str, ModelFile], name: str, version: str) -> ModelFile:
    """The entry of a model that is served, in whichever version.

    Raises:
        RefusedError: NOT_FOUND.
    """
    if name not in models:
        raise RefusedError(
            "NOT_FOUND", f"unknown model {shortened(name)}; this server has: {', '.join(models)}"
        )
    check_version(version)
    return models[name]


def check_version(version: str) -> None:
    """Checks that a request names a version by its number, or none.

    Raises:
        RefusedError: NOT_FOUND.
    """
    if version and not re.fullmatch("[0-9]{1,18}", version):
        raise RefusedError("NOT_FOUND", f"expected a version number or none, found {shortened(version)}")


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
    names = [tensor.name for tensor in request.inputs[: len(specs) + 1]]
    if sorted(names) != sorted(specs):
        raise _invalid(f"expected the inputs {', '.join(specs)}, each once; found {_listed(names)}")
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
            found = _region_bytes(tensor, allowed=shared_memory)
            if found != (size := count * row_bytes(spec)):
                raise _invalid(f"expected {size} bytes of {tensor.name!r} in shared memory, found {found}")
        else:
            _only(tensor.parameters, {}, f"the input {tensor.name!r}")
            _check_raw(tensor.name, spec, next(raw, b""), count)
    if next(raw, None) is not None:
        raise _invalid("expected as many raw_input_contents as inputs without shared memory, found more")
    _check_outputs(request, entry, count, shared_memory)
    return count


def _rows(tensor: Any, spec: TensorSpec, max_batch: int) -> int:
    # One axis too many says enough: a hostile request may have millions.
    shape, kind = tuple(tensor.shape[: len(spec.shape) + 1]), DATA_TYPES[spec.dtype]
    if tensor.datatype != kind or shape[1:] != spec.shape[1:]:
        expected = ", ".join(map(str, ("faces", *spec.shape[1:])))
        raise _invalid(
            f"expected {spec.name!r} to be {kind} ({expected}), found {shortened(tensor.datatype)} "
            f"{shortened(str(shape))}"
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


def _region_bytes(tensor: Any, *, allowed: bool) -> int:
    """How much of a region of shared memory is a tensor's."""
    if not allowed:
        raise _invalid(f"expected {tensor.name!r} in the message itself, found shared memory")
    _only(tensor.parameters, SHARED_MEMORY, repr(tensor.name))
    size: int = tensor.parameters["shared_memory_byte_size"].int64_param
    return size


def _check_outputs(request: Any, entry: ModelFile, rows: int, shared_memory: bool) -> None:
    specs = {spec.name: spec for spec in entry.outputs}
    names = [output.name for output in request.outputs[: len(specs) + 1]]
    if not specs.keys() >= set(names) or len(set(names)) != len(names):
        raise _invalid(
            f"expected outputs among {', '.join(specs)}, each at most once; found {_listed(names)}"
        )
    for output in request.outputs:
        if "shared_memory_region" not in output.parameters:
            _only(output.parameters, {}, f"the output {output.name!r}")
            continue
        found = _region_bytes(output, allowed=shared_memory)
        if found < (size := rows * row_bytes(specs[output.name])):
            raise _invalid(f"expected {size} bytes or more for {output.name!r}, found {found}")


def _only(parameters: Any, allowed: Kinds, where: str) -> None:
    if (unknown := next((name for name in parameters if name not in allowed), None)) is not None:
        expected = ", ".join(sorted(allowed)) or "none"
        raise _invalid(f"expected parameters of {where}: {expected}; found {shortened(unknown)}")
    for name, value in parameters.items():
        kind = value.WhichOneof("parameter_choice")
        if kind not in allowed[name] or (kind == "int64_param" and value.int64_param < 0):
            expected = " or ".join(allowed[name])
            found = shortened(str(value).strip() or "none")
            raise _invalid(f"expected {name} of {where} as {expected}, not negative; found {found}")


def shortened(text: str) -> str:
    """What came from outside, for a message and a log: quoted and bounded."""
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "...")


def _invalid(message: str) -> RefusedError:
    return RefusedError("INVALID_ARGUMENT", message)


def _listed(names: Sequence[str]) -> str:
    return shortened(", ".join(names) or "none")
