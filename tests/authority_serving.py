"""An authority's server for tests, and its client ``clerk``."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from runtime.serving.certificate_maker import Issued
from tests.doors import records
from tests.serving import (
    AuthorityFiles,
    Running,
    authority_files,
    erasablemask,
    serving,
    skip_without_server,
)


def faces(seed: int, count: int = 1) -> NDArray:
    """Noise, uint8 ``(count, 128, 128, 3)``."""
    return np.random.default_rng(seed).integers(0, 256, (count, 128, 128, 3), dtype=np.uint8)


def request_of(array: NDArray) -> Any:
    """To erase the mask of faces."""
    request = service_pb2.ModelInferRequest(model_name="restore", raw_input_contents=[array.tobytes()])
    request.inputs.add(name="faces", datatype="UINT8", shape=array.shape)
    return request


@dataclasses.dataclass(frozen=True)
class Served:
    """An authority's server and what it was started with."""

    server: Running
    files: AuthorityFiles
    started: float

    @property
    def remote(self) -> list[str]:
        """For ``erase``."""
        return ["--backend", "triton", "--url", f"grpcs://{self.server.url}"]

    def channel(self, client: Issued | None = None) -> grpc.Channel:
        """Of a client, by default ``clerk`` of the trial CA."""
        folder = self.files.folder
        own = client or Issued(*((folder / name).read_bytes() for name in ("clerk.pem", "clerk.key")))
        ca = (folder / "ca.pem").read_bytes()
        credentials = grpc.ssl_channel_credentials(ca, own.key, own.certificate)
        return grpc.secure_channel(self.server.url, credentials, [("grpc.use_local_subchannel_pool", 1)])

    @contextmanager
    def connect(self, client: Issued | None = None) -> Iterator[Callable[..., NDArray]]:
        """A client, see ``channel``: restores the faces of a seed."""
        with self.channel(client) as on:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(on)

            def restore(seed: int, count: int = 1) -> NDArray:
                array = faces(seed, count)
                answer = stub.ModelInfer(request_of(array), timeout=30)
                return np.frombuffer(answer.raw_output_contents[0], np.uint8).reshape(array.shape)

            yield restore

    def audit(self) -> list[dict[str, Any]]:
        """The requests in the log, once ``audit verify`` has found it whole."""
        done = erasablemask("audit", "verify", self.files.audit_log)
        assert done.returncode == 0, done.stderr
        return records(self.files.audit_log)


@contextmanager
def authority(folder: Path, bundle: Path | None = None, log: Path | None = None) -> Iterator[Served]:
    """Runs one while the context lasts, with JSON for its log."""
    skip_without_server()
    files, started = authority_files(folder), time.time()
    if log is not None:
        files = dataclasses.replace(files, audit_log=log)
    options = [*files.options(), "--log-format", "json"]
    with serving(folder, *options, role="authority", bundle=bundle) as server:
        yield Served(server, files, started)
