"""What may reach Triton through its gRPC door: each thing that can be wrong with a request is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runtime.serving.grpc_checks import RefusedError, check_infer, check_known, check_model
from runtime.serving.grpc_door import GrpcDoor

from .grpc_doors import (
    MODELS,
    FakeTriton,
    Request,
    Status,
    call,
    changed,
    channel_to,
    honest,
    in_memory,
    refused,
)
from .triton_fakes import MAX_BATCH


def shape(index: int, *lengths: int) -> bytes:
    def change(request: Any) -> None:
        request.inputs[index].shape[:] = lengths

    return changed(change)


def raw(index: int, data: bytes) -> bytes:
    def change(request: Any) -> None:
        request.raw_input_contents[index] = data

    return changed(change)


def strengths(*values: float) -> bytes:
    return raw(1, np.array(values, "<f4").tobytes())


def parameter(name: str, kind: str, value: Any, of: Callable[[Any], Any] = lambda request: request) -> bytes:
    return changed(lambda request: setattr(of(request).parameters[name], kind, value))


def into(path: tuple[str, int], field: bytes) -> bytes:
    """A field that the protocol does not have, inside an input or output."""
    request = honest()
    part = getattr(request, path[0])[path[1]]
    part.MergeFromString(field)
    data: bytes = request.SerializeToString()
    return data


UNKNOWN = b"\xfa\x3f\x03new"
BAD = {
    "an unknown model": (
        changed(lambda r: setattr(r, "model_name", "restore")),
        "unknown model 'restore'; this",
    ),
    "no model": (changed(lambda r: r.ClearField("model_name")), "unknown model ''; this server has: protect"),
    "a long model": (changed(lambda r: setattr(r, "model_name", "x" * 999)), r"model 'x{64}\.\.\.'; this"),
    "a strange version": (
        changed(lambda r: setattr(r, "model_version", "-1")),
        "expected a version number or none, found '-1'",
    ),
    "no inputs": (
        changed(lambda r: r.ClearField("inputs")),
        "inputs faces, strength, each once; found 'none'",
    ),
    "an input missing": (
        changed(lambda r: r.inputs.pop()),
        "the inputs faces, strength, each once; found 'faces'",
    ),
    "an input more": (
        changed(lambda r: r.inputs.add(name="secret")),
        "each once; found 'faces, strength, secret'",
    ),
    "an input twice": (
        changed(lambda r: setattr(r.inputs[1], "name", "faces")),
        "each once; found 'faces, faces'",
    ),
    "both inputs twice": (
        changed(lambda r: r.MergeFrom(honest())),
        "each once; found 'faces, strength, faces'",
    ),
    "another type": (
        changed(lambda r: setattr(r.inputs[0], "datatype", "FP32")),
        r"expected 'faces' to be UINT8 \(faces, 2, 2, 3\), found 'FP32' '\(2, 2, 2, 3\)'",
    ),
    "no type": (
        changed(lambda r: r.inputs[1].ClearField("datatype")),
        r"FP32 \(faces, 1\), found '' '\(2, 1\)'",
    ),
    "another shape": (shape(0, 2, 2, 2, 4), r"expected 'faces' to be .*, found 'UINT8' '\(2, 2, 2, 4\)'"),
    "no shape": (shape(0), r"found 'UINT8' '\(\)'"),
    "an axis less": (shape(0, 2, 12), r"found 'UINT8' '\(2, 12\)'"),
    "an axis more": (shape(1, 2, 1, 1), r"found 'FP32' '\(2, 1, 1\)'"),
    "endless axes": (shape(1, *[1] * 60_000), r"found 'FP32' '\(1, 1, 1\)'"),
    "no row": (shape(0, 0, 2, 2, 3), "expected 1 to 4 faces in a request, found 0"),
    "no row at all": (honest(0).SerializeToString(), "expected 1 to 4 faces in a request, found 0"),
    "a negative length": (shape(0, -1, 2, 2, 3), "expected 1 to 4 faces in a request, found -1"),
    "more than 32 bits": (shape(0, 2**32, 2, 2, 3), "expected 1 to 4 faces in a request, found 4294967296"),
    "2 in 32 bits": (shape(0, 2**32 + 2, 2, 2, 3), "1 to 4 faces in a request, found 4294967298"),
    "a product that overflows": (shape(0, 2, 2, 2, 2**62 + 3), r"expected 'faces' to be"),
    "a batch too many": (honest(MAX_BATCH + 1).SerializeToString(), "expected 1 to 4 faces .*, found 5"),
    "two batches": (
        changed(lambda r: r.inputs[1].shape.__setitem__(0, 1)),
        "expected as many rows in every input, found 1, 2",
    ),
    "a byte missing": (raw(0, bytes(23)), "expected 24 bytes of 'faces', found 23"),
    "a byte too many": (raw(0, bytes(25)), "expected 24 bytes of 'faces', found 25"),
    "no bytes": (changed(lambda r: r.ClearField("raw_input_contents")), "24 bytes of 'faces', found 0"),
    "bytes of one input": (changed(lambda r: r.raw_input_contents.pop()), "8 bytes of 'strength', found 0"),
    "bytes of three inputs": (
        changed(lambda r: r.raw_input_contents.append(b"")),
        "as inputs .*, found more",
    ),
    "bytes of all in one": (
        changed(lambda r: r.raw_input_contents.__setitem__(slice(None), [bytes(32), b""])),
        "expected 24 bytes of 'faces', found 32",
    ),
    "NaN": (strengths(0.5, float("nan")), "expected finite numbers in 'strength', found infinities or NaN"),
    "infinity": (strengths(float("inf"), 0.5), "expected finite numbers in 'strength'"),
    "minus infinity": (strengths(0.5, -float("inf")), "expected finite numbers in 'strength'"),
    "a list of numbers": (
        changed(lambda r: r.inputs[0].contents.uint_contents.append(1)),
        "expected 'faces' in raw_input_contents, found a list of numbers",
    ),
    "an empty list of numbers": (
        changed(lambda r: r.inputs[1].contents.SetInParent()),
        "found a list of numb",
    ),
    "a sequence": (
        parameter("sequence_id", "int64_param", 1),
        "expected parameters of the request: priority, timeout, .*; found 'sequence_id'",
    ),
    "an empty parameter": (
        changed(lambda r: r.parameters["timeout"].Clear()),
        "expected timeout of the request as .* found 'none'",
    ),
    "a timeout in words": (
        parameter("timeout", "string_param", "soon"),
        "expected timeout of the request as int64_param or uint64_param, not negative; found 'string_param",
    ),
    "a timeout below zero": (
        parameter("timeout", "int64_param", -1),
        "not negative; found 'int64_param: -1'",
    ),
    "an input's parameter": (
        parameter("binary_data_size", "int64_param", 24, lambda r: r.inputs[0]),
        "expected parameters of the input 'faces': none; found 'binary_data_size'",
    ),
    "an output's parameter": (
        parameter("classification", "int64_param", 3, lambda r: r.outputs[0]),
        "expected parameters of the output 'protected': none; found 'classification'",
    ),
    "shared memory in": (
        in_memory().SerializeToString(),
        "expected 'faces' in the message itself, found shared memory",
    ),
    "shared memory out": (
        parameter("shared_memory_region", "string_param", "psm_1", lambda r: r.outputs[0]),
        "expected 'protected' in the message itself, found shared memory",
    ),
    "an unknown output": (
        changed(lambda r: r.outputs.add(name="features")),
        "expected outputs among protected, each at most once; found 'protected, features'",
    ),
    "an output twice": (changed(lambda r: r.outputs.add(name="protected")), "found 'protected, protected'"),
    "no protobuf": (b"hello", "expected a ModelInferRequest, found other bytes"),
    "cut protobuf": (honest().SerializeToString()[:-1], "expected a ModelInferRequest, found other bytes"),
    "nothing": (b"", "unknown model ''; this server has: protect"),
    "an unknown field": (
        honest().SerializeToString() + UNKNOWN,
        "expected only fields of this protocol, found 6 bytes of",
    ),
    "an unknown field of an input": (into(("inputs", 0), UNKNOWN), "found 6 bytes of others"),
    "an unknown field of an output": (into(("outputs", 0), UNKNOWN), "found 6 bytes of others"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_are_refused(fake: FakeTriton, door: GrpcDoor, case: str) -> None:
    data, message = BAD[case]
    with channel_to(door) as channel:
        code, found = refused(lambda: call(channel, data))
    assert re.search(message, found), found
    about_the_model = found.startswith("unknown model") or "version" in found
    assert code == (Status.NOT_FOUND if about_the_model else Status.INVALID_ARGUMENT)
    assert len(found) < 400
    assert not fake.received


def memory(of: Callable[[Any], Any], name: str, kind: str, value: Any) -> bytes:
    return changed(lambda request: setattr(of(request).parameters[name], kind, value), in_memory)


FACES, PROTECTED = (lambda request: request.inputs[0]), (lambda request: request.outputs[0])
SIZE, OFFSET, REGION = "shared_memory_byte_size", "shared_memory_offset", "shared_memory_region"
BAD_IN_MEMORY = {
    "too few bytes": (
        memory(FACES, SIZE, "int64_param", 23),
        "24 bytes of 'faces' in shared memory, found 23",
    ),
    "too many bytes": (
        memory(FACES, SIZE, "int64_param", 2**40),
        "24 bytes of 'faces' .*, found 1099511627776",
    ),
    "a size below zero": (memory(FACES, SIZE, "int64_param", -24), "not negative; found 'int64_param: -24'"),
    "no size": (
        changed(lambda r: FACES(r).parameters.pop(SIZE), in_memory),
        "24 bytes of 'faces' .*, found 0",
    ),
    "a size in words": (memory(FACES, SIZE, "string_param", "24"), f"{SIZE} of 'faces' as int64_param"),
    "an offset below zero": (
        memory(FACES, OFFSET, "int64_param", -1),
        f"{OFFSET} of 'faces' as int64_param, not",
    ),
    "a region by number": (memory(FACES, REGION, "int64_param", 1), f"{REGION} of 'faces' as string_param"),
    "another parameter": (
        memory(FACES, "x", "bool_param", True),
        "expected parameters of 'faces': .*found 'x'",
    ),
    "no room for the answer": (
        memory(PROTECTED, SIZE, "int64_param", 23),
        "24 bytes or more for 'protected', fo",
    ),
    "an answer before the region": (
        memory(PROTECTED, OFFSET, "int64_param", -1),
        "of 'protected' as int64_param",
    ),
    "bytes besides": (changed(lambda r: r.raw_input_contents.append(bytes(8)), in_memory), "found more"),
    "bytes for the faces": (
        changed(lambda r: r.raw_input_contents.insert(0, bytes(24)), in_memory),
        "8 bytes of 'strength', found 24",
    ),
}


@pytest.mark.parametrize("case", BAD_IN_MEMORY)
def test_bad_requests_in_shared_memory_are_refused(
    fake: FakeTriton, memory_door: GrpcDoor, case: str
) -> None:
    data, message = BAD_IN_MEMORY[case]
    with channel_to(memory_door) as channel:
        code, found = refused(lambda: call(channel, data))
    assert code == Status.INVALID_ARGUMENT
    assert re.search(message, found), found
    assert not fake.received


def fields(request: Any) -> dict[str, Any]:
    """What a request means, as NumPy reads it."""
    raws = request.raw_input_contents
    dtypes = {"UINT8": np.uint8, "FP32": np.dtype("<f4")}
    return {
        given.name: np.frombuffer(data, dtypes[given.datatype]).reshape(given.shape)
        for given, data in zip(request.inputs, raws, strict=True)
    }


def check_meaning(data: bytes) -> None:
    """What may be passed on has the model's inputs, and as many finite numbers as their shapes say."""
    request = Request.FromString(data)
    assert request.model_name == "protect"
    assert set(request.parameters) <= {"timeout", "priority", "triton_enable_empty_final_response"}
    found = fields(request)
    rows = len(found["faces"])
    assert 1 <= rows <= MAX_BATCH
    assert {name: values.shape for name, values in found.items()} == {
        "faces": (rows, 2, 2, 3),
        "strength": (rows, 1),
    }
    assert np.isfinite(found["strength"]).all()
    assert [output.name for output in request.outputs] in ([], ["protected"])
    assert not any(part.parameters for part in (*request.inputs, *request.outputs))


def passes(data: bytes) -> bool:
    """What the door does before it asks Triton."""
    try:
        request = Request.FromString(data)
    except DecodeError:
        return False
    try:
        entry = check_model(MODELS, request.model_name, request.model_version)
        check_infer(request, entry, MAX_BATCH, shared_memory=False)
        check_known(request)
    except RefusedError:
        return False
    return True


PIECES = [
    honest().SerializeToString(),
    *(part.SerializeToString() for part in (*honest().inputs, *in_memory().inputs, *in_memory().outputs)),
    *(data for data, _ in BAD.values() if len(data) < 300),
]


GOOD = [honest(rows).SerializeToString() for rows in range(1, MAX_BATCH + 1)]
CHANGES = st.lists(
    st.tuples(st.integers(0, 500), st.integers(0, 4), st.binary(max_size=4) | st.sampled_from(PIECES)),
    min_size=1,
    max_size=3,
)


def damage(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Some bytes exchanged, lost or added, often for pieces of other messages: where, how many, by what."""
    for where, lost, piece in changes:
        start = where % (len(data) + 1)
        data = data[:start] + piece + data[start + lost :]
    return data


DAMAGED = st.builds(damage, st.sampled_from(GOOD), CHANGES)


@given(data=DAMAGED | st.binary(max_size=100))
@example(honest().SerializeToString() * 2)
@settings(max_examples=400, deadline=None)
def test_whatever_is_damaged_is_refused_or_means_what_it_says(data: bytes) -> None:
    if passes(data):
        check_meaning(data)


@given(data=DAMAGED)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damaged_request_reaches_triton(fake: FakeTriton, door: GrpcDoor, data: bytes) -> None:
    fake.received.clear()
    with channel_to(door) as channel:
        if passes(data):
            call(channel, data)
        else:
            code, _ = refused(lambda: call(channel, data))
            assert code in (Status.INVALID_ARGUMENT, Status.NOT_FOUND)
    assert [data for _, data in fake.received] == [data] * passes(data)
