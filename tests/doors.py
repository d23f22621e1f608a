"""An authority's door before a fake Triton, for tests: the network answers ``255 - faces``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from runtime.errors import ServingError
from runtime.serving.audit import AuditLog
from runtime.serving.audit_file import read_chain
from runtime.serving.authority_door import AuthorityDoor, DoorSettings
from runtime.serving.authority_request import Contract
from runtime.serving.certificate_maker import CertificateMaker, EphemeralTls, Issued, ephemeral_tls
from runtime.serving.certificates import ServerCertificates
from runtime.serving.clients import ClientPolicy

from .triton_fakes import HeldTriton

TIMEOUT_S = 10.0
SIDE_PX = 8
CONTRACT = Contract(
    model="restore",
    max_batch=4,
    input="faces",
    output="restored",
    face_shape=(SIDE_PX, SIDE_PX, 3),
)
MAKER = CertificateMaker("test CA", timedelta(days=30))
CLERK = MAKER.issue("clerk", "client")


class FakeTriton(HeldTriton):
    """Demands the run's own certificates, and keeps the questions."""

    def __init__(self, tls: EphemeralTls) -> None:
        super().__init__()
        self._credentials = grpc.ssl_server_credentials(
            [(tls.server.key, tls.server.certificate)], root_certificates=tls.ca, require_client_auth=True
        )
        self.port = 0
        self.requests: list[Any] = []
        self.answer_bytes: int | None = None
        self.version = "1"
        self.start()

    def start(self) -> None:
        """Listens, again at the same port."""
        self._server = grpc.server(ThreadPoolExecutor(8))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_secure_port(f"127.0.0.1:{self.port}", self._credentials)
        self._server.start()

    def stop(self) -> None:
        """Is gone."""
        self.let_go.set()
        self._server.stop(0).wait()

    def ServerLive(self, request, context):
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request, context):
        return service_pb2.ServerReadyResponse(ready=True)

    def ServerMetadata(self, request, context):
        return service_pb2.ServerMetadataResponse(name="fake")

    def ModelReady(self, request, context):
        return service_pb2.ModelReadyResponse(ready=True)

    def ModelMetadata(self, request, context):
        return service_pb2.ModelMetadataResponse(name=request.name)

    def ModelConfig(self, request, context):
        return service_pb2.ModelConfigResponse()

    def ModelInfer(self, request, context):
        self.requests.append(request)
        self.hold(context)
        raw = (255 - np.frombuffer(request.raw_input_contents[0], np.uint8)).tobytes()
        answer = service_pb2.ModelInferResponse(
            model_name="restore",
            model_version=self.version,
            id=request.id,
            raw_output_contents=[raw[: self.answer_bytes]],
        )
        answer.outputs.add(name="restored", datatype="UINT8", shape=request.inputs[0].shape)
        return answer


def sha256_of(version: str) -> str:
    """Only version 1 is known."""
    if version != "1":
        raise ServingError("unknown version")
    return "ab" * 32


def server_certificates() -> ServerCertificates:
    """New ones of a door for the clients of ``MAKER``."""
    server = MAKER.issue("localhost", "server", ["localhost", "127.0.0.1"])
    return ServerCertificates(server.certificate, server.key, MAKER.ca.certificate)


@contextmanager
def open_door(
    path: Path,
    *,
    policy: ClientPolicy | None = None,
    certificates: Callable[[], ServerCertificates] | None = None,
    **settings: Any,
) -> Iterator[tuple[AuthorityDoor, FakeTriton, AuditLog]]:
    """A door for the clients of ``MAKER``, its fake Triton and its log."""
    own = server_certificates()
    tls = ephemeral_tls()
    fake = FakeTriton(tls)
    defaults = {"address": "127.0.0.1:0", "upstream": f"127.0.0.1:{fake.port}", "drain_s": 5.0}
    try:
        with (
            AuditLog(path) as log,
            AuthorityDoor(
                DoorSettings(**{**defaults, **settings}),
                contract=CONTRACT,
                certificates=certificates or (lambda: own),
                upstream_tls=tls,
                sha256_of=sha256_of,
                log=log,
                policy=policy or ClientPolicy(),
            ) as door,
        ):
            yield door, fake, log
            fake.let_go.set()
    finally:
        fake.stop()


@contextmanager
def connect(port: int, client: Issued | None, options: tuple = ()) -> Iterator[Any]:
    """A stub for a door, with a client's certificate or none."""
    pair = (client.key, client.certificate) if client else (None, None)
    credentials = grpc.ssl_channel_credentials(MAKER.ca.certificate, *pair)
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def infer_request(count: int = 2, seed: int = 0) -> Any:
    """A good request of random faces."""
    shape = (count, *CONTRACT.face_shape)
    raw = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8).tobytes()
    request = service_pb2.ModelInferRequest(model_name="restore", id="42", raw_input_contents=[raw])
    request.inputs.add(name="faces", datatype="UINT8", shape=shape)
    return request


def records(path: Path) -> list[dict[str, Any]]:
    """The requests in a log whose chain is whole."""
    found: list[dict[str, Any]] = []
    read_chain(path, seen=found.append)
    return [record for record in found if record["event"] == "request"]


def refused(call: Callable[[], Any]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def infer(stub: Any, request: Any = None, timeout_s: float = TIMEOUT_S) -> Any:
    return stub.ModelInfer(infer_request() if request is None else request, timeout=timeout_s)
