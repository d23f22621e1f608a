"""The door before Triton's gRPC port: what is honest passes as the bytes it is, nothing else gets there."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2, service_pb2_grpc

from runtime.backends.triton import TritonServer
from runtime.errors import MissingExtraError, ServingError
from runtime.serving.grpc_checks import RefusedError, check_infer, check_known, check_model, message_limit
from runtime.serving.grpc_door import BATCHES_IN_FLIGHT, SERVICE, GrpcDoor

from .triton_fakes import manifest_of, model, tensor

TIMEOUT_S = 10.0
MAX_BATCH = 4
ENTRY = model(
    [tensor("faces", 2, 2, 3, dtype="uint8"), tensor("strength", 1)],
    [tensor("protected", 2, 2, 3, dtype="uint8")],
)
MODELS = {"protect": ENTRY}
Status = grpc.StatusCode
Request = service_pb2.ModelInferRequest


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers at once, or when ``let_go`` is set, with the faces as they came.

    Attributes:
        received: method and bytes of every call, in the order of their arrival.
        sent: the bytes of every answer.
        error: what inferences are answered with instead.
    """

    def __init__(self) -> None:
        self.received: list[tuple[str, bytes]] = []
        self.sent: list[bytes] = []
        self.remaining_s: list[float] = []
        self.error: tuple[Status, str] | None = None
        self.let_go = threading.Event()
        self.arrived = threading.Semaphore(0)
        self.cancelled = threading.Event()
        self.reset()
        self._server = grpc.server(ThreadPoolExecutor(16))
        self._server.add_generic_rpc_handlers((_Bytes(self),))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def reset(self) -> None:
        """Forgets what was, and answers at once."""
        self.let_go.set()
        self.error = None
        for kept in (self.received, self.sent, self.remaining_s):
            kept.clear()
        while self.arrived.acquire(blocking=False):
            pass
        self.cancelled.clear()

    def stop(self) -> None:
        self.let_go.set()
        self._server.stop(0).wait()

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.remaining_s.append(context.time_remaining())
        context.add_callback(lambda: None if self.let_go.is_set() else self.cancelled.set())
        self.arrived.release()
        self.let_go.wait(TIMEOUT_S)
        if self.error is not None:
            context.abort(*self.error)
        answer = service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
        answer.outputs.add(name="protected", datatype="UINT8", shape=request.inputs[0].shape)
        answer.raw_output_contents.extend(request.raw_input_contents[:1])
        return answer

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        kinds = {"uint8": "UINT8", "float32": "FP32"}
        inputs, outputs = (
            [{"name": spec.name, "datatype": kinds[spec.dtype], "shape": spec.shape} for spec in specs]
            for specs in (ENTRY.inputs, ENTRY.outputs)
        )
        return service_pb2.ModelMetadataResponse(name=request.name, inputs=inputs, outputs=outputs)


class _Bytes(grpc.GenericRpcHandler):
    """Every call of the protocol to the servicer, with its bytes kept; what it does not have is empty."""

    def __init__(self, fake: FakeTriton) -> None:
        self._fake = fake

    def service(self, details: Any) -> Any:
        name = details.method.rpartition("/")[2]
        return grpc.unary_unary_rpc_method_handler(lambda data, context: self._call(name, data, context))

    def _call(self, name: str, data: bytes, context: grpc.ServicerContext) -> bytes:
        self._fake.received.append((name, data))
        if name in ("ModelInfer", "ModelMetadata"):
            request = getattr(service_pb2, f"{name}Request").FromString(data)
            answer = getattr(self._fake, name)(request, context)
        else:
            answer = getattr(service_pb2, f"{name}Response")()
        # Not the order in which protobuf would write it: whoever parses it on the way is found out.
        sent = answer.SerializeToString() + b"\xfa\x3f\x03new"
        self._fake.sent.append(sent)
        return sent


@pytest.fixture(scope="module")
def one_fake() -> Iterator[FakeTriton]:
    fake = FakeTriton()
    yield fake
    fake.stop()


@pytest.fixture
def fake(one_fake: FakeTriton) -> Iterator[FakeTriton]:
    one_fake.reset()
    yield one_fake
    one_fake.let_go.set()


def door_to(fake: FakeTriton, **settings: Any) -> GrpcDoor:
    return GrpcDoor(
        MODELS,
        **{
            "max_batch": MAX_BATCH,
            "upstream": f"127.0.0.1:{fake.port}",
            "address": "127.0.0.1:0",
            **settings,
        },
    )


@pytest.fixture(scope="module")
def one_door(one_fake: FakeTriton) -> Iterator[GrpcDoor]:
    with door_to(one_fake, answer_s=3.0) as opened:
        yield opened


@pytest.fixture
def door(one_door: GrpcDoor, fake: FakeTriton) -> GrpcDoor:
    """The door to ``fake``, without shared memory, nothing in flight."""
    wait_until(lambda: one_door._faces == 0)
    return one_door


@pytest.fixture(scope="module")
def memory_door(one_fake: FakeTriton) -> Iterator[GrpcDoor]:
    with door_to(one_fake, shared_memory=True) as opened:
        yield opened


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


@contextlib.contextmanager
def channel_to(door: GrpcDoor, *options: tuple[str, int]) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{door.port}", options) as channel:
        yield channel


def call(channel: grpc.Channel, data: bytes, method: str = "ModelInfer") -> bytes:
    answer: bytes = channel.unary_unary(f"/{SERVICE}/{method}")(data, timeout=TIMEOUT_S)
    return answer


def in_background(channel: grpc.Channel, rows: int = 2, timeout_s: float = TIMEOUT_S) -> Any:
    ask = channel.unary_unary(f"/{SERVICE}/ModelInfer")
    return ask.future(honest(rows).SerializeToString(), timeout=timeout_s)


def refused(action: Callable[[], Any]) -> tuple[Status, str]:
    with pytest.raises(grpc.RpcError) as caught:
        action()
    return caught.value.code(), caught.value.details()


def honest(rows: int = 2) -> Any:
    request = Request(model_name="protect", model_version="1", id="42")
    request.parameters["timeout"].int64_param = 1_000_000
    request.parameters["priority"].uint64_param = 1
    request.inputs.add(name="faces", datatype="UINT8", shape=(rows, 2, 2, 3))
    request.inputs.add(name="strength", datatype="FP32", shape=(rows, 1))
    request.outputs.add(name="protected")
    faces = np.arange(rows * 12) % 256
    request.raw_input_contents.append(faces.astype(np.uint8).tobytes())
    request.raw_input_contents.append(np.full(rows, 0.5, "<f4").tobytes())
    return request


def in_memory(rows: int = 2) -> Any:
    """The faces and the answer in shared memory, the strength in the message."""
    request = honest(rows)
    for where in (request.inputs[0], request.outputs[0]):
        where.parameters["shared_memory_region"].string_param = "psm_1"
        where.parameters["shared_memory_byte_size"].int64_param = rows * 12
        where.parameters["shared_memory_offset"].int64_param = 64
    del request.raw_input_contents[0]
    return request


def test_a_client_works_through_the_door(fake: FakeTriton, door: GrpcDoor) -> None:
    server = TritonServer(url=f"grpc://127.0.0.1:{door.port}")
    with server.connect("protect", manifest_of(MODELS, max_batch=MAX_BATCH)) as backend:
        faces = np.arange(60, dtype=np.uint8).reshape(5, 2, 2, 3)
        found = backend.run({"faces": faces, "strength": np.ones((5, 1), np.float32)})
    assert (found["protected"] == faces).all()
    assert [name for name, _ in fake.received] == ["ModelMetadata", "ModelInfer", "ModelInfer"]


def without_details() -> Any:
    request = honest()
    for field in ("model_version", "id", "parameters", "outputs"):
        request.ClearField(field)
    return request


def swapped() -> Any:
    """The inputs in the other order, as is the client's right."""
    request = honest()
    pairs = [
        (Request.InferInputTensor.FromString(t.SerializeToString()), raw)
        for t, raw in zip(request.inputs, request.raw_input_contents, strict=True)
    ]
    request.ClearField("inputs")
    request.ClearField("raw_input_contents")
    for described, raw in reversed(pairs):
        request.inputs.append(described)
        request.raw_input_contents.append(raw)
    return request


@pytest.mark.parametrize(
    "data",
    [
        honest(1).SerializeToString(),
        honest(MAX_BATCH).SerializeToString(),
        without_details().SerializeToString(),
        swapped().SerializeToString(),
        # The same message in another encoding: fields in another order, one of them twice.
        b"\x0a\x01x" + Request(id="7").SerializeToString() + honest().SerializeToString(),
    ],
    ids=["one face", "a full batch", "only what is needed", "another order", "another encoding"],
)
def test_honest_requests_and_answers_pass_as_they_are(fake: FakeTriton, door: GrpcDoor, data: bytes) -> None:
    with channel_to(door) as channel:
        answer = call(channel, data)
    assert fake.received == [("ModelInfer", data)]
    assert fake.sent == [answer]


def changed(change: Callable[[Any], Any], start: Callable[[], Any] = honest) -> bytes:
    request = start()
    change(request)
    data: bytes = request.SerializeToString()
    return data


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


SHARED_MEMORY = [f"SystemSharedMemory{what}" for what in ("Status", "Register", "Unregister")]


def test_shared_memory_passes_where_it_is_allowed(fake: FakeTriton, memory_door: GrpcDoor) -> None:
    data = in_memory().SerializeToString()
    with channel_to(memory_door) as channel:
        assert call(channel, data) == fake.sent[-1]
        for method in SHARED_MEMORY:
            call(channel, b"", method)
    assert fake.received == [("ModelInfer", data)] + [(method, b"") for method in SHARED_MEMORY]


@pytest.mark.parametrize(
    "method",
    [
        *SHARED_MEMORY,
        "CudaSharedMemoryStatus",
        "CudaSharedMemoryRegister",
        "CudaSharedMemoryUnregister",
        "RepositoryIndex",
        "RepositoryModelLoad",
        "RepositoryModelUnload",
        "TraceSetting",
        "LogSettings",
        "ModelStreamInfer",
        "Unheard",
    ],
)
def test_the_rest_of_the_protocol_is_not_there(fake: FakeTriton, door: GrpcDoor, method: str) -> None:
    with channel_to(door) as channel:
        assert refused(lambda: call(channel, b"", method))[0] == Status.UNIMPLEMENTED
        stream = channel.stream_stream(f"/{SERVICE}/{method}")
        code, _ = refused(lambda: list(stream(iter([honest().SerializeToString()]), timeout=TIMEOUT_S)))
    assert code == Status.UNIMPLEMENTED
    assert not fake.received


def test_cuda_memory_is_never_there(fake: FakeTriton, memory_door: GrpcDoor) -> None:
    with channel_to(memory_door) as channel:
        code, _ = refused(lambda: call(channel, b"", "CudaSharedMemoryRegister"))
    assert code == Status.UNIMPLEMENTED


@pytest.mark.parametrize("method", ["ServerLive", "ServerReady", "ServerMetadata"])
def test_questions_about_the_server_pass(fake: FakeTriton, door: GrpcDoor, method: str) -> None:
    with channel_to(door) as channel:
        assert call(channel, b"", method) == fake.sent[-1]
        assert refused(lambda: call(channel, b"hello", method)) == (
            Status.INVALID_ARGUMENT,
            f"expected a {method}Request, found other bytes",
        )
    assert fake.received == [(method, b"")]


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"])
def test_questions_about_the_models_pass(fake: FakeTriton, door: GrpcDoor, method: str) -> None:
    kind = getattr(service_pb2, f"{method}Request")
    good = kind(name="protect", version="1").SerializeToString()
    with channel_to(door) as channel:
        assert call(channel, good, method) == fake.sent[-1]
        for bad in (kind(name="restore"), kind(name="protect", version="latest")):
            code, _ = refused(lambda bad=bad: call(channel, bad.SerializeToString(), method))
            assert code == Status.NOT_FOUND
        assert fake.received == [(method, good)]
        if method == "ModelStatistics":
            call(channel, b"", method)
            assert fake.received[1:] == [(method, b"")]
        else:
            assert refused(lambda: call(channel, b"", method))[0] == Status.NOT_FOUND


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
        check_known(request)
        entry = check_model(MODELS, request.model_name, request.model_version)
        check_infer(request, entry, MAX_BATCH, shared_memory=False)
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
@settings(max_examples=200, deadline=None)
def test_whatever_is_damaged_is_refused_or_means_what_it_says(data: bytes) -> None:
    if passes(data):
        check_meaning(data)


@given(data=DAMAGED)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damaged_request_reaches_triton(fake: FakeTriton, door: GrpcDoor, data: bytes) -> None:
    fake.received.clear()
    with channel_to(door) as channel:
        if passes(data):
            call(channel, data)
        else:
            code, _ = refused(lambda: call(channel, data))
            assert code in (Status.INVALID_ARGUMENT, Status.NOT_FOUND)
    assert [data for _, data in fake.received] == [data] * passes(data)


def test_a_busy_door_says_so_at_once(fake: FakeTriton, door: GrpcDoor) -> None:
    """Room for twelve faces: three batches of four are in flight, then no face more."""
    fake.let_go.clear()
    with channel_to(door) as channel:
        running = [in_background(channel, MAX_BATCH) for _ in range(BATCHES_IN_FLIGHT)]
        for _ in running:
            assert fake.arrived.acquire(timeout=TIMEOUT_S)
        one = honest(1).SerializeToString()
        assert refused(lambda: call(channel, one)) == (Status.RESOURCE_EXHAUSTED, "busy; try again")
        assert len(fake.received) == BATCHES_IN_FLIGHT
        call(channel, b"", "ServerLive")
        assert refused(lambda: call(channel, b"hello"))[0] == Status.INVALID_ARGUMENT
        fake.let_go.set()
        for future in running:
            future.result()
        call(channel, one)
    wait_until(lambda: door._faces == 0)


def test_the_deadline_is_passed_on(fake: FakeTriton, door: GrpcDoor) -> None:
    """The door's own is three seconds."""
    with channel_to(door) as channel:
        ask = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        for timeout_s in (1.5, 60.0, None):
            ask(honest().SerializeToString(), timeout=timeout_s)
    assert fake.remaining_s == pytest.approx([1.5, 3, 3], abs=0.5)


def test_a_deadline_that_passes_frees_the_room(fake: FakeTriton, door: GrpcDoor) -> None:
    fake.let_go.clear()
    with channel_to(door) as channel:
        assert refused(in_background(channel, timeout_s=0.2).result)[0] == Status.DEADLINE_EXCEEDED
        assert fake.cancelled.wait(TIMEOUT_S)
    wait_until(lambda: door._faces == 0)


def test_a_server_that_does_not_answer_is_given_up(fake: FakeTriton) -> None:
    fake.let_go.clear()
    with door_to(fake, answer_s=0.2) as door, channel_to(door) as channel:
        assert refused(lambda: call(channel, honest().SerializeToString()))[0] == Status.DEADLINE_EXCEEDED
        assert fake.cancelled.wait(TIMEOUT_S)


def test_a_client_that_goes_is_cancelled_upstream(fake: FakeTriton, door: GrpcDoor) -> None:
    fake.let_go.clear()
    with channel_to(door) as channel:
        future = in_background(channel)
        assert fake.arrived.acquire(timeout=TIMEOUT_S)
        assert door._faces == 2
        future.cancel()
        assert fake.cancelled.wait(TIMEOUT_S)
        wait_until(lambda: door._faces == 0)
        fake.let_go.set()
        call(channel, honest().SerializeToString())


@pytest.mark.parametrize("code", [Status.INVALID_ARGUMENT, Status.UNAVAILABLE, Status.INTERNAL])
def test_what_triton_refuses_is_told(fake: FakeTriton, door: GrpcDoor, code: Status) -> None:
    fake.error = (code, "Stub process is not healthy.")
    with channel_to(door) as channel:
        assert refused(lambda: call(channel, honest().SerializeToString())) == fake.error
    wait_until(lambda: door._faces == 0)


def test_a_server_that_is_not_there_is_said(fake: FakeTriton) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with (
            door_to(fake, upstream=f"127.0.0.1:{unused.getsockname()[1]}") as door,
            channel_to(door) as channel,
        ):
            code, message = refused(lambda: call(channel, honest().SerializeToString()))
    assert (code, "failed to connect to all addresses" in message) == (Status.UNAVAILABLE, True)


def test_messages_are_bounded(fake: FakeTriton, door: GrpcDoor) -> None:
    """A full batch of 12 bytes a face and a float32 in, beside 64 KiB for all that is around it."""
    limit = message_limit(MODELS, MAX_BATCH)
    assert limit == 64 * 1024 + MAX_BATCH * 16
    with channel_to(door) as channel:
        assert refused(lambda: call(channel, bytes(limit + 1)))[0] == Status.RESOURCE_EXHAUSTED
        assert refused(lambda: call(channel, bytes(limit)))[0] == Status.INVALID_ARGUMENT
    with channel_to(door, ("grpc.default_compression_algorithm", 2)) as channel:
        assert refused(lambda: call(channel, honest().SerializeToString()))[0] == Status.UNIMPLEMENTED
    assert not fake.received


def test_logs_hold_nothing_of_a_request(door: GrpcDoor, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "runtime"), channel_to(door) as channel:
        refused(lambda: call(channel, changed(lambda r: setattr(r, "model_name", "portrait"))))
    assert "refused with NOT_FOUND" in caplog.text
    assert "portrait" not in caplog.text


def test_closing_waits_for_requests_in_flight(fake: FakeTriton) -> None:
    fake.let_go.clear()
    door = door_to(fake).start()
    with channel_to(door) as channel:
        future = in_background(channel)
        assert fake.arrived.acquire(timeout=TIMEOUT_S)
        closing = threading.Thread(target=door.close)
        closing.start()
        wait_until(lambda: _refuses_connections(door.port))
        assert closing.is_alive()
        fake.let_go.set()
        assert future.result() == fake.sent[-1]
        closing.join(TIMEOUT_S)
        assert not closing.is_alive()
        assert refused(lambda: call(channel, honest().SerializeToString()))[0] == Status.UNAVAILABLE
    door.close()


def _refuses_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionError:
        return True
    return False


def test_closing_does_not_wait_for_ever(fake: FakeTriton) -> None:
    fake.let_go.clear()
    door = door_to(fake, drain_s=0.1).start()
    with channel_to(door) as channel:
        future = in_background(channel)
        assert fake.arrived.acquire(timeout=TIMEOUT_S)
        door.close()
        assert refused(future.result)[0] in (Status.CANCELLED, Status.UNAVAILABLE)
        assert fake.cancelled.wait(TIMEOUT_S)


@pytest.mark.parametrize("address", ["", "127.0.0.1:70000", "nowhere.invalid:0"])
def test_a_port_that_cannot_be_had_is_an_error(fake: FakeTriton, door: GrpcDoor, address: str) -> None:
    """Of the door itself, that is taken, where none is given."""
    address = address or f"127.0.0.1:{door.port}"
    other = door_to(fake, address=address)
    with pytest.raises(ServingError, match=f"cannot listen on {address}: .*; choose another port"):
        other.start()
    other.close()
    with channel_to(door) as channel:
        call(channel, honest().SerializeToString())


def test_an_error_before_the_port_is_open_is_not_waited_for() -> None:
    with pytest.raises(ServingError, match="empty"):
        GrpcDoor({}, max_batch=1, upstream="127.0.0.1:1", address="127.0.0.1:0").start()


def test_without_the_client_the_extra_is_named(fake: FakeTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tritonclient.grpc", None)
    door = door_to(fake)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[triton\]'"):
        door.start()
    door.close()
