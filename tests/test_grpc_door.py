"""The door before Triton's gRPC port: what is honest passes as the bytes it is, nothing else gets there."""

from __future__ import annotations

import re
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from runtime.backends.retries import Failure
from runtime.backends.triton import TritonServer
from runtime.backends.triton_memory import Region
from runtime.backends.triton_wire import MEMORY_PREFIX, failure_of
from runtime.errors import MissingExtraError, ServingError
from runtime.serving.grpc_checks import message_limit
from runtime.serving.grpc_door import BATCHES_IN_FLIGHT, GrpcDoor
from runtime.serving.grpc_options import SERVICE

from .grpc_doors import (
    MODELS,
    TIMEOUT_S,
    FakeTriton,
    Request,
    Status,
    call,
    changed,
    channel_to,
    door_to,
    honest,
    in_background,
    in_memory,
    refused,
)
from .triton_fakes import MAX_BATCH, manifest_of, wait_until


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


SHARED_MEMORY = [f"SystemSharedMemory{what}" for what in ("Status", "Register", "Unregister")]


@pytest.fixture(scope="module")
def region() -> Iterator[Region]:
    """Shared memory of 64 bytes, as our client makes it."""
    region = Region(64)
    yield region
    region.unlink()
    region.close()


def about_memory(method: str, region: Region, **changes: Any) -> bytes:
    fields = {"name": region.name}
    if method.endswith("Register") and not method.endswith("Unregister"):
        fields |= {"key": region.key, "byte_size": 60, "offset": 4}
    data: bytes = getattr(service_pb2, f"{method}Request")(**{**fields, **changes}).SerializeToString()
    return data


def test_shared_memory_passes_where_it_is_allowed(
    fake: FakeTriton, memory_door: GrpcDoor, region: Region
) -> None:
    calls = [("ModelInfer", in_memory().SerializeToString())]
    calls += [(method, about_memory(method, region)) for method in SHARED_MEMORY]
    with channel_to(memory_door) as channel:
        for method, data in calls:
            assert call(channel, data, method) == fake.sent[-1]
    assert fake.received == calls


SOMEBODY = f"{MEMORY_PREFIX}{'0' * 32}"


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("SystemSharedMemoryStatus", {"name": ""}, "expected a region named as in .*, found ''"),
        ("SystemSharedMemoryUnregister", {"name": ""}, "expected a region named as in .*, found ''"),
        ("SystemSharedMemoryUnregister", {"name": "psm_1"}, "named as in .*, found 'psm_1'"),
        ("SystemSharedMemoryRegister", {"name": "x"}, "named as in .*, found 'x'"),
        ("SystemSharedMemoryRegister", {"name": f"{SOMEBODY}\n"}, "named as in "),
        ("SystemSharedMemoryRegister", {"key": "/other"}, "expected the key '/.*' for .*, found '/other'"),
        ("SystemSharedMemoryRegister", {"key": f"/{SOMEBODY}"}, f"for this region, found '/{SOMEBODY}'"),
        ("SystemSharedMemoryRegister", {"name": SOMEBODY, "key": f"/{SOMEBODY}"}, "64 bytes .*, found 0"),
        ("SystemSharedMemoryRegister", {"byte_size": 61}, "expected 65 bytes of shared memory .*, found 64"),
        ("SystemSharedMemoryRegister", {"offset": 2**64 - 1}, "expected 18446744073709551675 bytes"),
    ],
)
def test_only_memory_that_clients_made_for_this_can_be_named(
    fake: FakeTriton,
    memory_door: GrpcDoor,
    region: Region,
    method: str,
    changes: dict[str, Any],
    message: str,
) -> None:
    with channel_to(memory_door) as channel:
        code, found = refused(lambda: call(channel, about_memory(method, region, **changes), method))
    assert code == Status.INVALID_ARGUMENT
    assert re.search(message, found), found
    assert not fake.received


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


def test_calls_are_bounded_as_well(fake: FakeTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that are only read: messages that arrive take memory before they can be counted as faces."""
    monkeypatch.setattr("runtime.serving.grpc_door.CALLS_AT_ONCE", 1)
    with door_to(fake) as door, channel_to(door) as channel:
        fake.let_go.clear()
        running = in_background(channel, 1)
        assert fake.arrived.acquire(timeout=TIMEOUT_S)
        code, message = refused(lambda: call(channel, honest().SerializeToString()))
        assert code == Status.RESOURCE_EXHAUSTED
        assert failure_of(code.name, message) == Failure.BUSY
        fake.let_go.set()
        running.result()


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


def test_requests_that_do_not_arrive_are_given_up(fake: FakeTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many of them as there may be calls: others are served as soon as their time is over."""
    monkeypatch.setattr("runtime.serving.grpc_door.CALLS_AT_ONCE", 4)
    end = threading.Event()

    def never() -> Iterator[bytes]:
        end.wait(TIMEOUT_S)
        yield b""

    with door_to(fake, receive_s=0.3) as door, channel_to(door) as channel:
        send = channel.stream_unary(f"/{SERVICE}/ModelInfer")
        held = [send.future(never(), timeout=TIMEOUT_S) for _ in range(4)]
        for one in held:
            assert refused(one.result) == (
                Status.DEADLINE_EXCEEDED,
                "the request did not arrive within 0.3 s",
            )
        end.set()
        assert call(channel, honest().SerializeToString()) == fake.sent[-1]
        found = refused(lambda: send(iter([]), timeout=TIMEOUT_S))
    assert found == (Status.INVALID_ARGUMENT, "expected a message, found none")
    assert len(fake.received) == 1


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


def test_what_is_in_flight_can_be_cut_off_while_the_door_closes(fake: FakeTriton) -> None:
    fake.let_go.clear()
    door = door_to(fake, drain_s=30).start()
    with channel_to(door) as channel, ThreadPoolExecutor(1) as pool:
        future = in_background(channel)
        assert fake.arrived.acquire(timeout=TIMEOUT_S)
        closing = pool.submit(door.close)
        with pytest.raises(TimeoutError):
            closing.result(0.2)
        door.cut()
        closing.result(TIMEOUT_S)
        assert refused(future.result)[0] in (Status.CANCELLED, Status.UNAVAILABLE)
    door.cut()


@pytest.mark.parametrize("address", ["", "127.0.0.1:70000", "127.0.0.1:-1", "127.0.0.1:http"])
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
