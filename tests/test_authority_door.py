"""The authority's door: who comes in, what gets through, and that nothing leaves without a record."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from runtime.errors import MissingExtraError, ServingError
from runtime.serving import authority_restore
from runtime.serving.certificate_maker import CertificateMaker, Issued
from runtime.serving.clients import ClientPolicy
from tests.doors import (
    CLERK,
    MAKER,
    TIMEOUT_S,
    connect,
    infer,
    infer_request,
    open_door,
    records,
    refused,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


@pytest.fixture
def opened(path: Path) -> Iterator[tuple]:
    with open_door(path) as parts:
        yield parts


def test_a_known_client_gets_its_faces_and_a_record(opened, path: Path) -> None:
    door, fake, _ = opened
    request = infer_request()
    with connect(door.port, CLERK) as stub:
        answer = infer(stub, request)
    faces, restored = request.raw_input_contents[0], answer.raw_output_contents[0]
    np.testing.assert_array_equal(np.frombuffer(restored, np.uint8), 255 - np.frombuffer(faces, np.uint8))
    assert answer.id == "42"
    (record,) = records(path)
    assert (record["outcome"], record["client"], record["faces"]) == ("restored", "CN=clerk", 2)
    assert record["input_sha256"] == hashlib.sha256(faces).hexdigest()
    assert record["output_sha256"] == hashlib.sha256(restored).hexdigest()
    assert (record["model"], record["model_version"], record["model_sha256"]) == ("restore", "1", "ab" * 32)
    assert len(fake.requests) == 1


def test_the_record_is_there_before_the_answer(opened, path: Path) -> None:
    door, _, log = opened
    append = log.append
    order = []
    log.append = lambda entry: (time.sleep(0.2), order.append("recorded"), append(entry))[-1]
    with connect(door.port, CLERK) as stub:
        infer(stub)
        order.append("answered")
    assert order == ["recorded", "answered"]


def test_tritons_own_client_works(opened, tmp_path: Path) -> None:
    import tritonclient.grpc as client

    door, _, _ = opened
    for name, data in (("ca", MAKER.ca.certificate), ("key", CLERK.key), ("cert", CLERK.certificate)):
        (tmp_path / name).write_bytes(data)
    faces = np.zeros((1, 8, 8, 3), np.uint8)
    tensor = client.InferInput("faces", faces.shape, "UINT8")
    tensor.set_data_from_numpy(faces)
    server = client.InferenceServerClient(
        f"localhost:{door.port}",
        ssl=True,
        root_certificates=str(tmp_path / "ca"),
        private_key=str(tmp_path / "key"),
        certificate_chain=str(tmp_path / "cert"),
    )
    with server:
        result = server.infer(
            "restore",
            [tensor],
            outputs=[client.InferRequestedOutput("restored")],
            timeout=5_000_000,
            priority=1,
        )
        assert (result.as_numpy("restored") == 255).all()
        assert server.is_server_live()
        assert server.is_server_ready()
        assert server.is_model_ready("restore")


EXPIRED = MAKER.issue("clerk", "client", valid=timedelta(seconds=-1))
STRANGER = CertificateMaker("test CA", timedelta(days=1)).issue("clerk", "client")
SERVERS_OWN = MAKER.issue("localhost", "server", ["localhost"])


@pytest.mark.parametrize(
    "client",
    [None, EXPIRED, STRANGER, SERVERS_OWN],
    ids=["none", "expired", "of another CA of the same name", "a server's"],
)
def test_without_a_good_certificate_nobody_gets_in(opened, path: Path, client: Issued | None) -> None:
    door, fake, _ = opened
    with connect(door.port, client) as stub:
        assert refused(lambda: infer(stub)).code() == grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(f"127.0.0.1:{door.port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        assert refused(lambda: call(b"", timeout=TIMEOUT_S)).code() == grpc.StatusCode.UNAVAILABLE
    assert fake.requests == []
    assert records(path) == []
    with connect(door.port, CLERK) as stub:
        infer(stub)


@pytest.mark.parametrize(
    ("version", "taken"), [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)]
)
def test_old_tls_is_refused(opened, tmp_path: Path, version: ssl.TLSVersion, taken: bool) -> None:
    door, _, _ = opened
    (tmp_path / "pair").write_bytes(CLERK.key + CLERK.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=MAKER.ca.certificate.decode())
    context.load_cert_chain(tmp_path / "pair")
    context.set_alpn_protocols(["h2"])
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = version
    with socket.create_connection(("127.0.0.1", door.port), timeout=TIMEOUT_S) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="localhost") as secured:
                assert taken
                assert secured.version() == "TLSv1.2"
        except ssl.SSLError:
            assert not taken


def test_a_connection_does_not_outlive_its_certificate(opened, path: Path) -> None:
    door, _, _ = opened
    with connect(door.port, MAKER.issue("clerk", "client", valid=timedelta(seconds=8))) as stub:
        infer(stub)
        time.sleep(8.5)
        for call in (lambda: infer(stub), lambda: stub.ServerLive(service_pb2.ServerLiveRequest())):
            error = refused(call)
            assert error.code() == grpc.StatusCode.PERMISSION_DENIED
            assert "the certificate is valid from" in error.details()
    assert [record["outcome"] for record in records(path)] == ["restored", "refused"]


def test_only_named_clients_are_served_if_there_are_names(path: Path) -> None:
    judge = MAKER.issue("judge", "client")
    with open_door(path, policy=ClientPolicy(frozenset({"CN=clerk"}))) as (door, fake, _):
        with connect(door.port, CLERK) as stub:
            infer(stub)
        with connect(door.port, judge) as stub:
            error = refused(lambda: infer(stub))
        assert error.code() == grpc.StatusCode.PERMISSION_DENIED
        assert len(fake.requests) == 1
    assert [(record["client"], record["outcome"]) for record in records(path)] == [
        ("CN=clerk", "restored"),
        ("CN=judge", "refused"),
    ]
    assert "not among those" in records(path)[1]["reason"]


def full_disk(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_with_the_disk_full_nothing_is_released(opened, path: Path, monkeypatch, caplog) -> None:
    door, fake, _ = opened
    with connect(door.port, CLERK) as stub:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full_disk)
            error = refused(lambda: infer(stub))
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            assert "cannot be recorded, so it is refused" in error.details()
            bad = infer_request()
            bad.inputs[0].name = "wrong"
            assert refused(lambda: infer(stub, bad)).code() == grpc.StatusCode.INVALID_ARGUMENT
        assert len(fake.requests) == 1
        assert "No space left on device; nothing is restored until" in caplog.text
        assert records(path) == []
        infer(stub)
    assert [record["outcome"] for record in records(path)] == ["restored"]


def test_a_log_that_is_gone_makes_the_server_unready(opened, path: Path) -> None:
    door, _, _ = opened
    ready = service_pb2.ServerReadyRequest()
    with connect(door.port, CLERK) as stub:
        assert stub.ServerReady(ready).ready
        path.unlink()
        assert refused(lambda: infer(stub)).code() == grpc.StatusCode.UNAVAILABLE
        assert not stub.ServerReady(ready).ready


@pytest.mark.parametrize(
    "name",
    [
        "ModelStatistics",
        "RepositoryIndex",
        "RepositoryModelLoad",
        "RepositoryModelUnload",
        "SystemSharedMemoryStatus",
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryUnregister",
        "CudaSharedMemoryStatus",
        "CudaSharedMemoryRegister",
        "CudaSharedMemoryUnregister",
        "TraceSetting",
        "LogSettings",
    ],
)
def test_the_rest_of_the_protocol_is_not_there(opened, name: str) -> None:
    door, _, _ = opened
    with connect(door.port, CLERK) as stub:
        request = getattr(service_pb2, f"{name}Request")()
        error = refused(lambda: getattr(stub, name)(request, timeout=TIMEOUT_S))
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED
        error = refused(lambda: list(stub.ModelStreamInfer(iter([infer_request()]), timeout=TIMEOUT_S)))
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED


def test_questions_about_the_one_model_are_passed_on(opened, path: Path) -> None:
    door, _, _ = opened
    with connect(door.port, CLERK) as stub:
        assert stub.ServerMetadata(service_pb2.ServerMetadataRequest()).name == "fake"
        for name in ("ModelReady", "ModelMetadata", "ModelConfig"):
            kind = getattr(service_pb2, f"{name}Request")
            getattr(stub, name)(kind(name="restore"), timeout=TIMEOUT_S)
            error = refused(lambda name=name, kind=kind: getattr(stub, name)(kind(name="protect")))
            assert error.code() == grpc.StatusCode.NOT_FOUND
            assert (
                error.details() == "expected the model 'restore', which alone is served here; found 'protect'"
            )
    assert records(path) == []


def test_messages_are_bounded(opened) -> None:
    door, fake, _ = opened
    request = infer_request()
    request.raw_input_contents[0] = bytes(10**6)
    with connect(door.port, CLERK) as stub:
        assert refused(lambda: infer(stub, request)).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        infer(stub)
    with connect(door.port, CLERK, (("grpc.default_compression_algorithm", 2),)) as stub:
        assert refused(lambda: infer(stub)).code() == grpc.StatusCode.UNIMPLEMENTED
    assert len(fake.requests) == 1


def test_junk_instead_of_a_message_is_an_error(opened) -> None:
    door, _, _ = opened
    credentials = grpc.ssl_channel_credentials(MAKER.ca.certificate, CLERK.key, CLERK.certificate)
    with grpc.secure_channel(f"127.0.0.1:{door.port}", credentials) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        assert refused(lambda: call(b"\xff" * 50, timeout=TIMEOUT_S)).code() == grpc.StatusCode.INTERNAL
    with connect(door.port, CLERK) as stub:
        infer(stub)


def test_nothing_but_what_was_checked_reaches_triton(opened) -> None:
    door, fake, _ = opened
    request = infer_request()
    request.parameters["priority"].uint64_param = 1
    sent = service_pb2.ModelInferRequest.FromString(request.SerializeToString() + b"\xfa\x3f\x03new")
    with connect(door.port, CLERK) as stub:
        infer(stub, sent)
    assert fake.requests[0].SerializeToString(deterministic=True) == request.SerializeToString(
        deterministic=True
    )


def in_background(stub: Any, count: int) -> list[Any]:
    return [stub.ModelInfer.future(infer_request(seed=index), timeout=TIMEOUT_S) for index in range(count)]


def test_a_busy_door_says_so_at_once(path: Path) -> None:
    with open_door(path, max_concurrent=2) as (door, fake, _), connect(door.port, CLERK) as stub:
        fake.let_go.clear()
        running = in_background(stub, 2)
        for _ in running:
            assert fake.arrived.acquire(timeout=TIMEOUT_S)
        error = refused(lambda: infer(stub))
        assert (error.code(), error.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "busy; try again")
        assert stub.ServerLive(service_pb2.ServerLiveRequest()).live
        fake.let_go.set()
        for call in running:
            call.result()
        infer(stub)
    outcomes = [(record["outcome"], record["reason"]) for record in records(path)]
    assert outcomes == [("refused", "busy; try again")] + 3 * [("restored", "")]


def test_the_deadline_is_passed_on(path: Path) -> None:
    with open_door(path, timeout_s=3.0) as (door, fake, _), connect(door.port, CLERK) as stub:
        infer(stub, timeout_s=1.5)
        infer(stub, timeout_s=60.0)
        stub.ModelInfer(infer_request())
    assert 0 < fake.remaining_s[0] < 1.6
    assert all(1.6 < remaining_s < 3.1 for remaining_s in fake.remaining_s[1:])


def test_a_deadline_that_passes_is_recorded_as_failed(path: Path) -> None:
    with open_door(path, timeout_s=0.5) as (door, fake, _), connect(door.port, CLERK) as stub:
        fake.let_go.clear()
        assert refused(lambda: infer(stub)).code() == grpc.StatusCode.DEADLINE_EXCEEDED
    (record,) = records(path)
    assert (record["outcome"], record["reason"]) == (
        "failed",
        "the network did not answer: DEADLINE_EXCEEDED",
    )
    assert record["input_sha256"]
    assert record["output_sha256"] == ""


def test_a_client_that_goes_is_cancelled_upstream_and_recorded(opened, path: Path) -> None:
    door, fake, _ = opened
    fake.let_go.clear()
    with connect(door.port, CLERK) as stub:
        (call,) = in_background(stub, 1)
        assert fake.arrived.acquire(timeout=TIMEOUT_S)
        call.cancel()
        assert fake.cancelled.wait(TIMEOUT_S)
    fake.let_go.set()
    door.close()
    (record,) = records(path)
    assert (record["outcome"], record["output_sha256"]) == ("failed", "")
    assert record["reason"] == "the client was gone before the network had answered"


@pytest.mark.parametrize("code", ["UNAVAILABLE", "INTERNAL"])
def test_what_goes_wrong_inside_is_not_told_outside(opened, path: Path, code: str, caplog) -> None:
    door, fake, _ = opened
    fake.error = (grpc.StatusCode[code], "/proc/1/fd/9 at 127.0.0.1")
    with connect(door.port, CLERK) as stub:
        error = refused(lambda: infer(stub))
    assert (error.code(), error.details()) == (
        grpc.StatusCode[code],
        f"the network did not answer: {code}",
    )
    assert "/proc/1/fd/9" in caplog.text
    assert "clerk" not in caplog.text
    assert [record["outcome"] for record in records(path)] == ["failed"]


def test_an_answer_of_another_form_is_not_released(opened, path: Path) -> None:
    door, fake, _ = opened
    fake.answer_bytes = 10
    with connect(door.port, CLERK) as stub:
        error = refused(lambda: infer(stub))
    assert (error.code(), "another form than its bundle says" in error.details()) == (
        grpc.StatusCode.INTERNAL,
        True,
    )
    assert [record["outcome"] for record in records(path)] == ["failed"]


def test_an_error_of_our_own_is_recorded_too(opened, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bytes:
        raise ZeroDivisionError("inside")

    door, _, _ = opened
    monkeypatch.setattr(authority_restore, "check_answer", broken)
    with connect(door.port, CLERK) as stub:
        assert refused(lambda: infer(stub)).code() == grpc.StatusCode.UNKNOWN
    (record,) = records(path)
    assert (record["outcome"], record["reason"]) == ("failed", "an error in the door")


def test_an_answer_of_an_unknown_version_is_not_released(opened, path: Path) -> None:
    door, fake, _ = opened
    fake.version = "2"
    with connect(door.port, CLERK) as stub:
        error = refused(lambda: infer(stub))
    assert error.details() == "a version answered that this server did not load"
    (record,) = records(path)
    assert (record["outcome"], record["model_version"], record["model_sha256"]) == ("failed", "2", "")


def test_closing_lets_running_erasures_finish(path: Path) -> None:
    with open_door(path) as (door, fake, _), connect(door.port, CLERK) as stub:
        fake.let_go.clear()
        (call,) = in_background(stub, 1)
        assert fake.arrived.acquire(timeout=TIMEOUT_S)
        closing = threading.Thread(target=door.close)
        closing.start()
        time.sleep(0.5)
        assert refused(lambda: infer(stub)).code() == grpc.StatusCode.UNAVAILABLE
        fake.let_go.set()
        assert call.result().raw_output_contents
        closing.join(TIMEOUT_S)
        assert not closing.is_alive()
    assert [record["outcome"] for record in records(path)] == ["restored"]


def test_what_outlasts_the_drain_is_cut_off_and_recorded(path: Path) -> None:
    with open_door(path, drain_s=0.5) as (door, fake, _), connect(door.port, CLERK) as stub:
        fake.let_go.clear()
        (call,) = in_background(stub, 1)
        assert fake.arrived.acquire(timeout=TIMEOUT_S)
        begin = time.monotonic()
        door.close()
        assert time.monotonic() - begin < 5
        refused(call.result)
    assert [record["outcome"] for record in records(path)] == ["failed"]


def test_what_is_cut_off_while_the_door_closes_is_recorded(path: Path) -> None:
    with open_door(path, drain_s=30) as (door, fake, _), connect(door.port, CLERK) as stub:
        fake.let_go.clear()
        (call,) = in_background(stub, 1)
        assert fake.arrived.acquire(timeout=TIMEOUT_S)
        closing = threading.Thread(target=door.close)
        closing.start()
        closing.join(0.2)
        assert closing.is_alive()
        door.cut()
        closing.join(TIMEOUT_S)
        assert not closing.is_alive()
        refused(call.result)
    assert [record["outcome"] for record in records(path)] == ["failed"]


def test_triton_that_comes_back_is_found_again(path: Path) -> None:
    with open_door(path) as (door, fake, _), connect(door.port, CLERK) as stub:
        infer(stub)
        fake.stop()
        assert refused(lambda: infer(stub)).code() == grpc.StatusCode.UNAVAILABLE
        fake.start()
        for _ in range(50):
            try:
                infer(stub)
                break
            except grpc.RpcError:
                time.sleep(0.1)
    outcomes = [record["outcome"] for record in records(path)]
    assert (outcomes[0], outcomes[-1], set(outcomes[1:-1])) == ("restored", "restored", {"failed"})


def test_a_port_has_one_door(opened, tmp_path: Path) -> None:
    door, _, _ = opened
    with (
        pytest.raises(ServingError, match="is another server running there"),
        open_door(tmp_path / "other.log", address=f"127.0.0.1:{door.port}"),
    ):
        pass


def test_without_tritonclient_the_extra_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tritonclient.grpc", None)
    with pytest.raises(MissingExtraError, match="triton"), open_door(path):
        pass


def test_many_clients_at_once_each_have_a_record(opened, path: Path) -> None:
    door, _, _ = opened
    clients = [MAKER.issue(f"clerk {index}", "client") for index in range(4)]

    def work(client: Issued) -> None:
        with connect(door.port, client) as stub:
            for seed in range(5):
                infer(stub, infer_request(seed=seed))

    threads = [threading.Thread(target=work, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [record["client"] for record in records(path)]
    assert sorted(found) == sorted(f"CN=clerk {index}" for index in range(4) for _ in range(5))
