"""A real server for tests: the command line's ``serve`` in a process, and clients of it."""

from __future__ import annotations

import dataclasses
import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from runtime.manifest import MANIFEST_NAME, open_bundle
from runtime.serving.certificate_maker import CertificateMaker, Issued
from runtime.serving.endpoint import free_port
from runtime.serving.environment import what_is_wrong
from runtime.serving.settings import DEFAULT_ENVIRONMENT
from runtime.shipped import default_bundle
from tests.revocations import revocation_list

ROOT = Path(__file__).parents[1]
ENVIRONMENT = Path(os.environ.get("ERASABLEMASK_SERVE_ENVIRONMENT", ROOT / DEFAULT_ENVIRONMENT))
THREADS = 2
ERASABLEMASK = (sys.executable, "-m", "runtime.cli")


def skip_without_server() -> None:
    """Skips a test that no server can be started for, and says why."""
    if shutil.which("tritonserver") is None and (wrong := what_is_wrong(ENVIRONMENT)) is not None:
        pytest.skip(f"no server in {ENVIRONMENT}: {wrong}; run: make serve-env")


class Running:
    """A server under its supervisor."""

    def __init__(self, process: subprocess.Popen, log: Path, ports: dict[str, int]) -> None:
        self.process = process
        self.ports = ports
        self.url = f"127.0.0.1:{ports['grpc']}"
        self._log = log

    def log(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str, *, times: int = 1, timeout_s: float = 60) -> None:
        """Waits until the log holds a text so often."""
        until = time.monotonic() + timeout_s
        while self.log().count(text) < times:
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < until, f"no {text!r} in:\n{self.log()}"
            time.sleep(0.05)

    def triton_pid(self) -> int:
        return next(iter(children(self.process.pid)))

    def stub_pid(self, model: str) -> int:
        return next(pid for pid, line in children(self.triton_pid()).items() if f"/{model}/" in line)

    def flag(self, name: str) -> str:
        """What Triton was told on its own command line."""
        line = Path(f"/proc/{self.triton_pid()}/cmdline").read_bytes().decode()
        (found,) = [part for part in line.split("\0") if part.startswith(f"--{name}=")]
        return found.partition("=")[2]

    def repository(self) -> Path:
        """The private model repository."""
        return Path(self.flag("model-repository"))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def serving(
    folder: Path, *options: str, role: str = "public", bundle: Path | None = None
) -> Iterator[Running]:
    """Starts ``erasablemask serve`` and waits until it is ready."""
    ports = {"grpc": free_port()}
    if role == "public":
        ports |= {"http": free_port(), "metrics": free_port()}
    log = folder / "serve.log"
    command = [*ERASABLEMASK, "serve", "--role", role]
    command += ["--environment", str(ENVIRONMENT), "--threads", str(THREADS), *options]
    for name, port in ports.items():
        command += [f"--{name}-port", str(port)]
    if bundle is not None:
        command += ["--bundle", str(bundle)]
    with log.open("w") as stream:
        process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream)
    try:
        server = Running(process, log, ports)
        server.wait_for("ready: ")
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def erasablemask(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a process of its own."""
    command = [*ERASABLEMASK, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@dataclass(frozen=True)
class AuthorityFiles:
    """What an authority has on its disk to start a server, and its client ``clerk`` to reach it.

    Attributes:
        folder: certificates.
        audit_log: not there yet.
        maker: another CA, whose clients the server takes, too, if they are called ``clerk``.
    """

    folder: Path
    audit_log: Path
    maker: CertificateMaker

    def options(self, **changes: Path | None) -> list[str]:
        """For ``serve``; one that is changed to None is left out."""
        files: dict[str, Path | None] = {
            "server-certificate": self.folder / "server.pem",
            "server-key": self.folder / "server.key",
            "client-ca": self.folder / "clients.pem",
            "client-revocations": self.folder / "revoked.pem",
            "audit-log": self.audit_log,
            "key-file": default_bundle("authority") / "demo.key",
        }
        files |= {name.replace("_", "-"): path for name, path in changes.items()}
        given = [
            text for name, path in files.items() if path is not None for text in (f"--{name}", str(path))
        ]
        return [*given, "--client-subjects", "CN=clerk"]

    def revoke(self, *revoked: Issued) -> None:
        """Lists these certificates of ``maker`` as revoked, and no others."""
        trial = Issued(*((self.folder / name).read_bytes() for name in ("ca.pem", "ca.key")))
        lists = revocation_list(trial) + revocation_list(self.maker.ca, *revoked)
        (self.folder / "revoked.new").write_bytes(lists)
        os.replace(self.folder / "revoked.new", self.folder / "revoked.pem")

    def tls(self, client: Path | None = None) -> list[str]:
        """For a client's command; ``client`` is a certificate with its key beside it."""
        client = client or self.folder / "clerk.pem"
        return [
            *("--tls-ca", str(self.folder / "ca.pem")),
            *("--tls-cert", str(client), "--tls-key", str(client.with_suffix(".key"))),
        ]


def authority_files(folder: Path) -> AuthorityFiles:
    """Made as a newcomer makes them."""
    certificates = folder / "certificates"
    done = erasablemask("certificates", certificates, "--client", "clerk")
    assert done.returncode == 0, done.stderr
    maker = CertificateMaker("second CA", timedelta(days=1))
    known = (certificates / "ca.pem").read_bytes() + maker.ca.certificate
    (certificates / "clients.pem").write_bytes(known)
    files = AuthorityFiles(certificates, folder / "audit.log", maker)
    files.revoke()
    return files


def change_manifest(folder: Path, **fields: Any) -> None:
    """Writes a bundle's manifest again with other fields."""
    manifest = dataclasses.replace(open_bundle(folder).manifest, **fields)
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")


def inverted(model: bytes, output: str) -> bytes:
    """A network with every level of its pictures turned around."""
    changed = onnx.load_from_string(model)
    node = next(node for node in changed.graph.node if output in node.output)
    node.output[0] = "before"
    changed.graph.initializer.append(onnx.numpy_helper.from_array(np.uint8(255), "white"))
    changed.graph.node.append(onnx.helper.make_node("Sub", ["white", "before"], [output]))
    data: bytes = changed.SerializeToString()
    return data


def children(pid: int) -> dict[int, str]:
    """Command lines of a process's living children by their ids."""
    found = {}
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            line = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            if line:
                found[int(child)] = line
    return found


def is_running(pid: int) -> bool:
    """Whether a process is there and not merely waiting to be buried."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


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


def face_inputs(count: int, seed: int = 0) -> dict[str, NDArray]:
    """Inputs of the shipped ``protect``."""
    random = np.random.default_rng(seed)
    return {
        "faces": random.integers(0, 256, (count, 128, 128, 3), np.uint8),
        "attributes": random.integers(0, 2, (count, 13)).astype(np.float32),
        "strength": random.random((count, 1), np.float32),
        "injection": random.random((count, 1), np.float32),
    }


def tensors(inputs: dict[str, NDArray], *, http: bool = False) -> list[Any]:
    library = importlib.import_module(f"tritonclient.{'http' if http else 'grpc'}")
    types = {"uint8": "UINT8", "float32": "FP32", "int32": "INT32"}
    found = []
    for name, values in inputs.items():
        tensor = library.InferInput(name, values.shape, types[values.dtype.name])
        tensor.set_data_from_numpy(values)
        found.append(tensor)
    return found


@contextmanager
def client(server: Running, *, http: bool = False) -> Iterator[Any]:
    """Over gRPC, or over HTTP through the door."""
    if http:
        from tritonclient.http import InferenceServerClient

        opened = InferenceServerClient(f"127.0.0.1:{server.ports['http']}", network_timeout=30)
    else:
        from tritonclient.grpc import InferenceServerClient

        opened = InferenceServerClient(
            server.url,
            channel_args=[("grpc.max_reconnect_backoff_ms", 300), ("grpc.use_local_subchannel_pool", 1)],
        )
    try:
        yield opened
    finally:
        opened.close()


def protect(opened: Any, inputs: dict[str, NDArray], timeout_s: float = 30) -> NDArray:
    http = type(opened).__module__.startswith("tritonclient.http")
    options = {} if http else {"client_timeout": timeout_s}
    protected: NDArray = opened.infer("protect", tensors(inputs, http=http), **options).as_numpy("protected")
    return protected


def until_answered(work: Callable[[], NDArray], timeout_s: float = 60) -> tuple[NDArray, list[str]]:
    """Asks again after an error, as a client of an idempotent service may; the answer, and the errors."""
    from tritonclient.utils import InferenceServerException

    errors: list[str] = []
    until = time.monotonic() + timeout_s
    while True:
        try:
            return work(), errors
        except InferenceServerException as error:
            errors.append(str(error))
            assert time.monotonic() < until, errors
            time.sleep(0.1)
