"""What an inference request over HTTP must be before Triton sees it.

This Triton ends itself over one tensor whose JSON claims a huge shape. So the request is compared with the
model's description: one meaning only (no repeated keys, no numbers that parsers read differently), no field
that is not listed here, and every size equal to the one that follows from the shapes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..backends.triton_wire import DATA_TYPES
from ..manifest import ModelFile, TensorSpec

# The longest value in JSON with its comma, brackets and spaces: 255, and -3.4028234663852886e+38.
_JSON_BYTES = {"uint8": 8, "float32": 32}
_ENVELOPE_BYTES = 1 << 16
_MAX_OBJECTS = 64
_MAX_ID_CHARS = 256
_MAX_TIMEOUT_US = 3_600_000_000
_MAX_PRIORITY = 2**31 - 1


class HttpRefusedError(Exception):
    """A request that is not passed on.

    Attributes:
        status: HTTP's, 400 or more.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def body_limit(model: ModelFile, max_batch: int) -> int:
    """Bytes of the longest honest request: every number of a full batch written out in JSON."""
    values = (max_batch * math.prod(spec.shape[1:]) * _JSON_BYTES[spec.dtype] for spec in model.inputs)
    return sum(values) + _ENVELOPE_BYTES


def check_infer(body: bytes, header_length: int | None, model: ModelFile, max_batch: int) -> None:
    """Checks the body of an inference request.

    Args:
        body: as received.
        header_length: bytes of JSON before the binary tensors, None if all of it is JSON.
        model: the network that is asked for.
        max_batch: faces in one request at most.

    Raises:
        HttpRefusedError: status 400, says what was expected and found.
    """
    if header_length is not None and header_length > len(body):
        raise HttpRefusedError(
            400, f"Inference-Header-Content-Length is {header_length}, the body has {len(body)} bytes"
        )
    text, binary = body[:header_length], memoryview(body)[len(body[:header_length]) :]
    request = _parsed(text, model, max_batch)
    _only(request, {"id", "parameters", "inputs", "outputs"}, "the request")
    identity = request.get("id", "")
    if not isinstance(identity, str) or len(identity) > _MAX_ID_CHARS:
        raise HttpRefusedError(400, f"id must be text of at most {_MAX_ID_CHARS} characters")
    _parameters(
        request,
        {
            "timeout": lambda v: _whole(v, 0, _MAX_TIMEOUT_US),
            "priority": lambda v: _whole(v, 0, _MAX_PRIORITY),
            "binary_data_output": lambda v: isinstance(v, bool),
        },
        "the request",
    )
    for tensor in _named(request.get("outputs", []), model.outputs, "outputs", all_of_them=False):
        _only(tensor, {"name", "parameters"}, f"output {tensor['name']}")
        _parameters(tensor, {"binary_data": lambda v: isinstance(v, bool)}, f"output {tensor['name']}")
    specs = {spec.name: spec for spec in model.inputs}
    offset, rows = 0, None
    for tensor in _named(request.get("inputs"), model.inputs, "inputs", all_of_them=True):
        spec = specs[tensor["name"]]
        found = _rows(tensor, spec, max_batch)
        if rows is not None and found != rows:
            raise HttpRefusedError(400, f"all inputs must have the same batch, found {rows} and {found}")
        rows = found
        offset += _check_values(tensor, spec, rows, binary[offset:])
    if offset != len(binary):
        raise HttpRefusedError(400, f"expected {offset} bytes of binary tensors, found {len(binary)}")


def _parsed(text: bytes, model: ModelFile, max_batch: int) -> dict[str, Any]:
    """The JSON, after a look at how much of what it could become."""
    rows = sum(max_batch * (1 + math.prod(spec.shape[1:-1]) * 2) for spec in model.inputs)
    if text.count(b"{") > _MAX_OBJECTS or text.count(b"[") > rows + _MAX_OBJECTS:
        raise HttpRefusedError(400, "the JSON has more parts than any request for this model")
    try:
        request = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise HttpRefusedError(400, f"the request is not valid JSON: {str(error)[:200]}") from error
    if not isinstance(request, dict):
        raise HttpRefusedError(400, "the request must be a JSON object")
    return request


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Parsers differ in which of two equal keys counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


def _only(mapping: Mapping[str, Any], allowed: set[str], where: str) -> None:
    if unknown := sorted(mapping.keys() - allowed):
        raise HttpRefusedError(400, f"{where} has {unknown[0][:64]!r}; allowed: {', '.join(sorted(allowed))}")


def _parameters(owner: Mapping[str, Any], rules: Mapping[str, Callable[[Any], bool]], where: str) -> None:
    """Everything else among Triton's parameters, shared memory above all, is for the server's own host."""
    found = owner.get("parameters", {})
    if not isinstance(found, dict):
        raise HttpRefusedError(400, f"the parameters of {where} must be a JSON object")
    _only(found, set(rules), f"parameters of {where}:")
    for name, value in found.items():
        if not rules[name](value):
            raise HttpRefusedError(400, f"parameter {name} of {where} has a value that is not allowed")


def _whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _named(
    tensors: Any, specs: Sequence[TensorSpec], side: str, *, all_of_them: bool
) -> list[dict[str, Any]]:
    """The tensors, each a JSON object with a name of the model's, none twice."""
    known = {spec.name for spec in specs}
    if not isinstance(tensors, list) or not all(isinstance(tensor, dict) for tensor in tensors):
        raise HttpRefusedError(400, f"{side} must be a list of JSON objects")
    names = [tensor.get("name") for tensor in tensors]
    # ``in`` a list: a name may be anything here, also what cannot be hashed.
    if not all(name in list(known) for name in names) or len(set(names)) != len(names):
        raise HttpRefusedError(400, f"the model's {side} are {', '.join(sorted(known))}, each once")
    if all_of_them and set(names) != known:
        raise HttpRefusedError(
            400, f"expected the {side} {', '.join(sorted(known))}, found {', '.join(sorted(names))}"
        )
    return tensors


def _rows(tensor: Mapping[str, Any], spec: TensorSpec, max_batch: int) -> int:
    """The batch of an input whose type and shape are right."""
    _only(tensor, {"name", "shape", "datatype", "parameters", "data"}, f"input {spec.name}")
    if tensor.get("datatype") != DATA_TYPES[spec.dtype]:
        raise HttpRefusedError(400, f"input {spec.name} must have datatype {DATA_TYPES[spec.dtype]}")
    shape, rest = tensor.get("shape"), list(spec.shape[1:])
    if (
        not isinstance(shape, list)
        or not all(_whole(length, 0, 2**31 - 1) for length in shape)
        or shape[1:] != rest
        or not 1 <= shape[0] <= max_batch
    ):
        raise HttpRefusedError(400, f"input {spec.name} must have shape {['1..' + str(max_batch), *rest]}")
    return int(shape[0])


def _check_values(tensor: Mapping[str, Any], spec: TensorSpec, rows: int, binary: memoryview) -> int:
    """Checks an input's values; returns how many bytes of binary it takes."""
    where = f"input {spec.name}"
    size = rows * math.prod(spec.shape[1:]) * np.dtype(spec.dtype).itemsize
    _parameters(tensor, {"binary_data_size": lambda v: _whole(v, size, size)}, where)
    in_binary = "binary_data_size" in tensor.get("parameters", {})
    if in_binary == ("data" in tensor):
        raise HttpRefusedError(400, f"{where} must have either data or the parameter binary_data_size")
    if in_binary:
        if len(binary) < size:
            raise HttpRefusedError(400, f"{where} has {size} bytes, but only {len(binary)} follow")
        if spec.dtype == "float32" and not np.isfinite(np.frombuffer(binary[:size], "<f4")).all():
            raise HttpRefusedError(400, f"{where} has values that are not finite")
        return size
    lengths = (rows, *spec.shape[1:])
    data = tensor["data"]
    if isinstance(data, list) and data and not isinstance(data[0], list):
        lengths = (math.prod(lengths),)  # all values in one list
    holds = _is_byte if spec.dtype == "uint8" else _is_float
    if not _filled(data, lengths, holds):
        raise HttpRefusedError(
            400, f"the data of {where} must be {list(lengths)} finite numbers of its datatype"
        )
    return 0


def _filled(data: Any, lengths: tuple[int, ...], holds: Callable[[Any], bool]) -> bool:
    if not isinstance(data, list) or len(data) != lengths[0]:
        return False
    if len(lengths) == 1:
        return all(map(holds, data))
    return all(_filled(part, lengths[1:], holds) for part in data)


def _is_byte(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 255


_FLOAT_MAX = float(np.finfo(np.float32).max)


def _is_float(value: Any) -> bool:
    return type(value) in (int, float) and -_FLOAT_MAX <= value <= _FLOAT_MAX
