"""Connections to the authority's door: a certificate that is renewed, and requests that do not arrive."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from runtime.errors import CertificateError
from runtime.serving.authority_door import AuthorityDoor
from runtime.serving.certificate_maker import CertificateMaker
from runtime.serving.certificates import RenewedCertificates, ServerCertificates
from runtime.serving.grpc_options import SERVICE
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
    server_certificates,
)


def shown(door: AuthorityDoor) -> str:
    """The certificate that a new connection is shown, as PEM."""
    context = ssl.create_default_context(cadata=MAKER.ca.certificate.decode())
    with (
        socket.create_connection(("127.0.0.1", door.port), TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        return ssl.DER_cert_to_PEM_cert(secure.getpeercert(binary_form=True) or b"")


class Files:
    """A server's files, as an operator exchanges them."""

    def __init__(self, folder: Path) -> None:
        self.paths = tuple(folder / name for name in ("server.pem", "server.key", "ca.pem"))

    def write(self, certificates: ServerCertificates) -> None:
        contents = certificates.certificate, certificates.key, certificates.client_ca
        for path, content in zip(self.paths, contents, strict=True):
            path.write_bytes(content)
            path.chmod(0o600)


def test_a_new_certificate_is_shown_and_old_connections_go_on(tmp_path: Path) -> None:
    first, second = server_certificates(), server_certificates()
    files = Files(tmp_path)
    files.write(first)
    renewed = RenewedCertificates(*files.paths)
    with open_door(tmp_path / "audit.log", certificates=lambda: renewed.current) as (door, _, _):
        assert shown(door) == first.certificate.decode()
        with connect(door.port, CLERK) as before:
            infer(before)
            files.write(second)
            assert shown(door) == first.certificate.decode(), "nobody has asked for it yet"
            renewed.renew()
            assert shown(door) == second.certificate.decode()
            infer(before)
        with connect(door.port, CLERK) as after:
            infer(after)
        with connect(door.port, None) as stranger:
            assert refused(lambda: infer(stranger)).code() == grpc.StatusCode.UNAVAILABLE


def test_a_certificate_that_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    first = server_certificates()
    files = Files(tmp_path)
    files.write(first)
    renewed = RenewedCertificates(*files.paths)
    files.paths[0].write_bytes(server_certificates().certificate)
    with pytest.raises(CertificateError, match=r"the key .*server\.key does not belong to the certificate"):
        renewed.renew()
    files.write(first)
    files.paths[2].write_bytes(CertificateMaker("another CA", timedelta(days=1)).ca.certificate)
    with pytest.raises(CertificateError, match=r"expected the same CAs of clients in .*; restart the server"):
        renewed.renew()
    assert renewed.current == first


def test_a_request_that_does_not_arrive_gives_its_thread_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """More of them than the door has threads; an honest client is served as soon as the time is over."""
    path = tmp_path / "audit.log"
    end = threading.Event()

    def never() -> Iterator[bytes]:
        end.wait(TIMEOUT_S)
        yield b""

    caplog.set_level(logging.INFO)
    with (
        open_door(path, max_concurrent=1, receive_s=0.5) as (door, fake, _),
        connect(door.port, CLERK) as stub,
    ):
        credentials = grpc.ssl_channel_credentials(MAKER.ca.certificate, CLERK.key, CLERK.certificate)
        with grpc.secure_channel(f"127.0.0.1:{door.port}", credentials) as channel:
            call = channel.stream_unary(f"/{SERVICE}/ModelInfer")
            begin = time.monotonic()
            held = [call.future(never(), timeout=TIMEOUT_S) for _ in range(17)]
            assert [one.code() for one in held] == [grpc.StatusCode.CANCELLED] * len(held)
            assert time.monotonic() - begin < TIMEOUT_S / 2
            end.set()
        infer(stub)
    assert len(fake.requests) == 1
    assert [record["outcome"] for record in records(path)] == ["restored"]
    assert "a request did not arrive within 0.5 s" in caplog.text


def test_a_call_without_a_message_is_refused(tmp_path: Path) -> None:
    with open_door(tmp_path / "audit.log", receive_s=0.5) as (door, _, _):
        credentials = grpc.ssl_channel_credentials(MAKER.ca.certificate, CLERK.key, CLERK.certificate)
        with grpc.secure_channel(f"127.0.0.1:{door.port}", credentials) as channel:
            call = channel.stream_unary(f"/{SERVICE}/ModelInfer")
            error = refused(lambda: call(iter([]), timeout=TIMEOUT_S))
    assert (error.code(), error.details()) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "expected a message, found none",
    )


def test_a_request_that_arrived_may_take_longer(tmp_path: Path) -> None:
    with (
        open_door(tmp_path / "audit.log", receive_s=0.3) as (door, fake, _),
        connect(door.port, CLERK) as stub,
    ):
        fake.let_go.clear()
        call = stub.ModelInfer.future(infer_request(), timeout=TIMEOUT_S)
        assert fake.arrived.acquire(timeout=TIMEOUT_S)
        time.sleep(0.5)
        fake.let_go.set()
        assert call.result().id == "42"
