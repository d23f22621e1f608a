"""The servers that the serving benchmark compares, each started, ready, and ended."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runtime.backends import FULL_PRECISION
from runtime.manifest import Manifest, open_bundle
from runtime.serving.endpoint import free_port
from runtime.serving.repository import configurations, names_of
from runtime.serving.triton_config import ONNX

# Measured where none are named.
BACKENDS = ("ort-cpu", "openvino-bf16")
_START_S = 180.0
_END_S = 60.0


def model_of(manifest: Manifest) -> str:
    """The network that a photo's faces are sent to: ``protect`` or ``anonymise``."""
    return names_of(manifest)[0]


def backends_of(manifest: Manifest, asked: Sequence[str]) -> list[str]:
    """What was asked for; or else those of ``BACKENDS`` that may run the bundle's networks."""
    if asked:
        return list(asked)
    return [name for name in BACKENDS if not manifest.float32_only or name in FULL_PRECISION]


@dataclass(frozen=True, kw_only=True)
class Server:
    """How one of them is set.

    Attributes:
        name: for people.
        kind: ``triton`` or ``plain``, see ``plain_server``.
        backend: what runs the network.
        threads: CPU threads of an instance.
        instances: processes of the model.
        fused: whether requests are fused into batches.
        delay_us: how long a batch may wait for more.
        preferred: batch sizes that Triton prefers; None: as the configurations that are shipped.
        max_queue: requests that may wait in Triton; None: as the configurations that are shipped.
        door: whether requests go through it, or to Triton itself.
    """

    name: str
    kind: str = "triton"
    backend: str = "ort-cpu"
    threads: int = 2
    instances: int = 1
    fused: bool = True
    delay_us: int = 0
    preferred: tuple[int, ...] | None = None
    max_queue: int | None = None
    door: bool = True


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server that answers.

    Attributes:
        server: how it is set.
        model: the network that is asked.
        process: of the server, or of what supervises it.
        url: ``host:port``.
        protocol: ``grpc`` or ``http``.
        metrics_port: None: there are none.
        http_url: ``host:port`` of Triton's HTTP beside gRPC; None: there is none.
    """

    server: Server
    model: str
    process: subprocess.Popen[bytes]
    url: str
    protocol: str
    metrics_port: int | None = None
    http_url: str | None = None

    def statistics(self) -> dict[str, Any]:
        """The protocol's, of the network."""
        with _client(self) as client:
            if self.protocol == "http":
                answer = client.get_inference_statistics(self.model)
            else:
                answer = client.get_inference_statistics(self.model, as_json=True)
        found: dict[str, Any] = answer["model_stats"][0]
        return found

    def counts(self) -> tuple[int, int]:
        """Faces and executions of the network so far."""
        stats = self.statistics()
        return int(stats.get("inference_count", 0)), int(stats.get("execution_count", 0))


@contextmanager
def running(
    server: Server,
    bundle: Path,
    environment: Path,
    folder: Path,
    *,
    watched: bool = False,
    shared_memory: bool = False,
    http: bool = False,
) -> Iterator[Running]:
    """Starts a server and ends it.

    Args:
        bundle: folder of a public bundle.
        environment: the wheel's, see ``erasablemask serve-env``.
        folder: an empty one, for its model repository and log.
        watched: with metrics; Triton's only.
        shared_memory: clients may use it; Triton's only.
        http: also over HTTP; Triton's only, whose other protocol is gRPC.

    Raises:
        ValueError: it does not become ready; its log's end is in the message.
    """
    folder.mkdir(parents=True)
    model = model_of(open_bundle(bundle).manifest)
    port, metrics_port, http_port = free_port(), *(free_port() if w else None for w in (watched, http))
    if server.kind == "plain":
        command = [sys.executable, "-m", "benchmarks.serving.plain_server", "--bundle", str(bundle)]
        command += ["--model", model, "--backend", server.backend, "--port", str(port)]
    else:
        write_repository(bundle, folder / "models", server)
        command = [sys.executable, "-m", "runtime.cli", "serve", "--role", "public", "--bundle", str(bundle)]
        command += ["--repository", str(folder / "models"), "--environment", str(environment)]
        command += ["--backend", server.backend, "--grpc-port", str(port)]
        command += ["--shared-memory"] if shared_memory else []
        command += ["--metrics-port", str(metrics_port)] if watched else []
        command += ["--http-port", str(http_port)] if http else []
    command += ["--threads", str(server.threads)]
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    answering = Running(
        server=server,
        model=model,
        process=process,
        url=f"127.0.0.1:{port}",
        protocol="http" if server.kind == "plain" else "grpc",
        metrics_port=metrics_port,
        http_url=None if http_port is None else f"127.0.0.1:{http_port}",
    )
    try:
        wait_until_ready(answering, log)
        yield answering if server.door else replace(answering, url=upstream_url(process.pid))
    finally:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def upstream_url(supervisor: int) -> str:
    """``host:port`` of the Triton behind the doors.

    Args:
        supervisor: its parent's process id.

    Raises:
        ValueError: there is none.
    """
    for children in Path(f"/proc/{supervisor}/task").glob("*/children"):
        for child in children.read_text().split():
            line = Path(f"/proc/{child}/cmdline").read_bytes().decode()
            flags = dict(part.split("=", 1) for part in line.split("\0") if part.startswith("--grpc-"))
            if "--grpc-port" in flags:
                return f"{flags['--grpc-address']}:{flags['--grpc-port']}"
    raise ValueError(f"expected Triton below process {supervisor}, found none")


def write_repository(bundle: Path, folder: Path, server: Server) -> None:
    """A model repository as ``erasablemask serve`` makes it, but for what is compared."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    opened = open_bundle(bundle)
    for name in names_of(opened.manifest):
        text = configurations(opened, name, instances=server.instances)[ONNX.config]
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        config.dynamic_batching.max_queue_delay_microseconds = server.delay_us
        if server.preferred is not None:
            config.dynamic_batching.preferred_batch_size[:] = server.preferred
        if server.max_queue is not None:
            config.dynamic_batching.default_queue_policy.max_queue_size = server.max_queue
        if not server.fused:
            config.ClearField("dynamic_batching")
        version = folder / name / "1"
        version.mkdir(parents=True)
        (folder / name / ONNX.config).write_text(text_format.MessageToString(config))
        (version / ONNX.file).write_bytes(opened.read(name))


def _client(running: Running) -> Any:
    if running.protocol == "http":
        from tritonclient.http import InferenceServerClient
    else:
        from tritonclient.grpc import InferenceServerClient
    return InferenceServerClient(running.url)


def wait_until_ready(running: Running, log: Path) -> None:
    """Waits for both doors: each opens by itself.

    Raises:
        ImportError: the client's library is not installed.
        ValueError: the server ended, or is not ready in time; the end of ``log`` is in the message.
    """
    until = time.monotonic() + _START_S
    waiting, last = [running], ""
    if running.http_url is not None:
        waiting.append(replace(running, url=running.http_url, protocol="http"))
    while time.monotonic() < until and running.process.poll() is None:
        try:
            with _client(waiting[0]) as client:
                if client.is_model_ready(running.model):
                    del waiting[0]
        except ImportError:
            raise
        except Exception as error:  # both clients raise what their transport raises while nobody listens
            last = f" ({error})"
        if not waiting:
            return
        time.sleep(0.1)
    end = log.read_text(errors="replace").strip().splitlines()[-3:]
    raise ValueError(f"the server {running.server.name!r} did not become ready{last}: {' / '.join(end)}")
