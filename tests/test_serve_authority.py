"""The authority's parts around a real Triton server: the restorer in memory, the hop, the door, the log."""

from __future__ import annotations

import hashlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from runtime.authority import load_secret, unseal_model
from runtime.backends import create_backend
from runtime.manifest import open_bundle
from runtime.serving.audit import AuditLog
from runtime.serving.authority_door import AuthorityDoor, DoorSettings
from runtime.serving.authority_request import Contract
from runtime.serving.certificate_maker import EphemeralTls, Issued, ephemeral_tls
from runtime.serving.certificates import ServerCertificates
from runtime.serving.clients import ClientPolicy
from runtime.serving.memory_file import MemoryFile, MemoryModels
from runtime.shipped import default_bundle
from tests.doors import CLERK, MAKER, connect, records, refused

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "triton_models" / "authority" / "restore" / "config.pbtxt"
# A command that starts tritonserver with a backend for platform onnxruntime_onnx and takes more options.
VARIABLE = "ERASABLEMASK_TRITONSERVER"
START_TIMEOUT_S = 60.0


def triton_command() -> list[str]:
    """How Triton is started here."""
    if VARIABLE not in os.environ:
        pytest.skip(f"no Triton server: set {VARIABLE} to a command that starts one")
    return shlex.split(os.environ[VARIABLE])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_triton(
    repository: Path, tls: EphemeralTls, port: int, log: Path, memory_prefix: str, files: ExitStack
) -> subprocess.Popen:
    """Starts Triton for one model behind mutual TLS, its keys in memory."""
    paths = {
        name: files.enter_context(MemoryFile(data, name)).path
        for name, data in (("cert", tls.server.certificate), ("key", tls.server.key), ("ca", tls.ca))
    }
    with log.open("wb") as output:
        return subprocess.Popen(
            [
                *triton_command(),
                f"--backend-config=python,shm-region-prefix-name={memory_prefix}",
                f"--model-repository={repository}",
                "--model-control-mode=explicit",
                "--load-model=restore",
                "--allow-http=false",
                "--allow-metrics=false",
                "--grpc-address=127.0.0.1",
                f"--grpc-port={port}",
                "--grpc-use-ssl=true",
                "--grpc-use-ssl-mutual=true",
                f"--grpc-server-cert={paths['cert']}",
                f"--grpc-server-key={paths['key']}",
                f"--grpc-root-cert={paths['ca']}",
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def hide_memory(prefix: str) -> int:
    """Takes the names of Triton's shared memory away, as ``serve`` does."""
    names = list(Path("/dev/shm").glob(f"{prefix}*"))
    for name in names:
        name.unlink()
    return len(names)


def end(process: subprocess.Popen) -> int:
    """Ends a Triton, and what it started if it does not end itself."""
    process.terminate()
    try:
        return process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def channel_to(port: int, ca: bytes, client: Issued | None) -> grpc.Channel:
    pair = (client.key, client.certificate) if client else (None, None)
    return grpc.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(ca, *pair))


def wait_until_ready(port: int, tls: EphemeralTls, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    with channel_to(port, tls.ca, tls.client) as channel:
        ask = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelReady
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if ask(service_pb2.ModelReadyRequest(name="restore"), timeout=1, wait_for_ready=True).ready:
                    return
            except grpc.RpcError:
                time.sleep(0.1)
    pytest.fail(f"Triton did not start:\n{log.read_text(errors='replace')[-3000:]}")


@dataclass
class Served:
    """What runs."""

    door: AuthorityDoor
    tls: EphemeralTls
    triton_port: int
    log: Path
    repository: Path
    model: bytes
    started: float


def make_repository(folder: Path, models: MemoryModels) -> Path:
    """A repository with the restorer as a link to memory."""
    folder.mkdir(mode=0o700)
    (folder / "restore" / "1").mkdir(parents=True)
    (folder / "restore" / "config.pbtxt").write_bytes(CONFIG.read_bytes())
    models.write(folder / "restore" / "1" / "model.onnx", restorer())
    return folder


def restorer() -> bytes:
    """The shipped one, opened with its public key."""
    folder = default_bundle("authority")
    return unseal_model(open_bundle(folder), load_secret(folder / "demo.key"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    triton_command()
    folder, started, data = tmp_path_factory.mktemp("authority"), time.time(), restorer()
    tls, port = ephemeral_tls(), free_port()
    manifest = open_bundle(default_bundle("authority")).manifest
    server = MAKER.issue("localhost", "server", ["localhost", "127.0.0.1"])
    with ExitStack() as stack:
        models = stack.enter_context(MemoryModels())
        repository = make_repository(folder / "models", models)
        memory_prefix = f"erasablemask-test-{os.getpid()}-"
        process = start_triton(repository, tls, port, folder / "triton.log", memory_prefix, stack)
        stack.callback(end, process)
        wait_until_ready(port, tls, process, folder / "triton.log")
        assert hide_memory(memory_prefix) == 1
        entry = manifest.models["restore"]
        door = AuthorityDoor(
            DoorSettings(address="127.0.0.1:0", upstream=f"127.0.0.1:{port}"),
            contract=Contract.of("restore", entry, max_batch=manifest.max_batch),
            sha256_of=models.sha256_of,
            certificates=ServerCertificates(server.certificate, server.key, MAKER.ca.certificate),
            upstream_tls=tls,
            log=stack.enter_context(AuditLog(folder / "audit.log")),
            policy=ClientPolicy(),
        )
        stack.enter_context(door)
        yield Served(door, tls, port, folder / "audit.log", repository, data, started)


def faces(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 128, 128, 3), dtype=np.uint8)


def request_of(array: np.ndarray) -> Any:
    request = service_pb2.ModelInferRequest(model_name="restore", raw_input_contents=[array.tobytes()])
    request.inputs.add(name="faces", datatype="UINT8", shape=array.shape)
    return request


@pytest.mark.parametrize("count", [1, 3, 64])
def test_the_door_gives_what_a_local_run_gives(served: Served, count: int) -> None:
    array = faces(count)
    with connect(served.door.port, CLERK, (("grpc.max_receive_message_length", -1),)) as stub:
        answer = stub.ModelInfer(request_of(array), timeout=60)
    restored = np.frombuffer(answer.raw_output_contents[0], np.uint8).reshape(array.shape)
    with create_backend("ort-cpu", served.model) as backend:
        local = backend.run({"faces": array})["restored"]
    assert np.abs(restored.astype(int) - local.astype(int)).max() <= 1
    record = records(served.log)[-1]
    assert record["output_sha256"] == hashlib.sha256(restored.tobytes()).hexdigest()
    assert record["model_sha256"] == hashlib.sha256(served.model).hexdigest()
    assert (record["client"], record["faces"], record["outcome"]) == ("CN=clerk", count, "restored")


def test_nobody_goes_round_the_door(served: Served) -> None:
    before = len(records(served.log))
    for ca, client in (
        (served.tls.ca, None),
        (served.tls.ca, CLERK),
        (served.tls.ca, served.tls.server),
        (MAKER.ca.certificate, CLERK),
    ):
        with channel_to(served.triton_port, ca, client) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            error = refused(lambda stub=stub: stub.ModelInfer(request_of(faces(1)), timeout=5))
            assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert len(records(served.log)) == before


def files_holding(needle: bytes, folders: list[Path], since: float) -> list[Path]:
    """New plain files below folders with some bytes in them."""
    found = []
    for folder in folders:
        for place, _, names in os.walk(folder):
            for path in (Path(place) / name for name in names):
                try:
                    if path.is_symlink() or not path.is_file() or path.stat().st_mtime < since - 1:
                        continue
                    if needle in path.read_bytes():
                        found.append(path)
                except OSError:  # it is gone already, or is no longer readable
                    continue
    return found


def test_the_restorer_is_in_no_file_while_it_is_served(served: Served, tmp_path: Path) -> None:
    with connect(served.door.port, CLERK) as stub:
        stub.ModelInfer(request_of(faces(1)), timeout=30)
    folders = [served.repository, Path("/tmp"), Path("/dev/shm"), Path("/var/tmp")]
    assert files_holding(faces(1).tobytes()[5000:5064], folders, served.started) == []
    middle = len(served.model) // 2
    needle = served.model[middle : middle + 64]
    assert files_holding(needle, folders, served.started) == []
    control = tmp_path / "control"
    control.write_bytes(served.model)
    assert files_holding(needle, [tmp_path], served.started) == [control]
    control.unlink()
    link = served.repository / "restore" / "1" / "model.onnx"
    assert str(link.readlink()).startswith(f"/proc/{os.getpid()}/fd/")


OWNER = """
import os, sys, time
from contextlib import ExitStack
from pathlib import Path
from runtime.serving.certificate_maker import ephemeral_tls
from runtime.serving.memory_file import MemoryModels, forbid_core_dumps
from tests.test_serve_authority import (
    channel_to, faces, hide_memory, make_repository, request_of, restorer, service_pb2_grpc, start_triton,
    wait_until_ready
)
forbid_core_dumps()
folder, port, tls, files = Path(sys.argv[1]), int(sys.argv[2]), ephemeral_tls(), ExitStack()
model, prefix = MemoryModels(), f"erasablemask-test-{os.getpid()}-"
process = start_triton(make_repository(folder / "models", model), tls, port, folder / "log", prefix, files)
print(process.pid, flush=True)
wait_until_ready(port, tls, process, folder / "log")
hide_memory(prefix)
with channel_to(port, tls.ca, tls.client) as channel:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    restored = stub.ModelInfer(request_of(faces(2)), timeout=30).raw_output_contents[0]
print(restored[5000:5064].hex(), flush=True)
time.sleep(600)
"""


def test_nothing_is_left_when_the_owner_is_killed(tmp_path: Path) -> None:
    triton_command()
    started = time.time()
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, tmp_path, str(free_port())], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert owner.stdout is not None
    triton_pid = int(owner.stdout.readline())
    link = tmp_path / "models" / "restore" / "1" / "model.onnx"
    try:
        restored = bytes.fromhex(owner.stdout.readline())
        assert len(restored) == 64
        assert hashlib.sha256(link.read_bytes()).hexdigest() == hashlib.sha256(restorer()).hexdigest()
        limits = Path(f"/proc/{triton_pid}/limits").read_text()
        (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
        assert line.split()[4] in ("0", "1")
    finally:
        owner.kill()
        owner.wait()
        os.killpg(triton_pid, signal.SIGKILL)
    assert link.is_symlink()
    assert not link.exists()
    for needle in (restorer()[100_000:100_064], faces(2).tobytes()[5000:5064], restored):
        assert files_holding(needle, [tmp_path, Path("/tmp"), Path("/dev/shm")], started) == []
