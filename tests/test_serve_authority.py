"""The authority's server, for real: whom it serves, what it records, what it does when something breaks."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2_grpc

from runtime.authority import load_secret, seal_bundle_model, unseal_model
from runtime.backends import create_backend
from runtime.manifest import open_bundle, sha256_of
from runtime.serving.certificate_maker import CertificateMaker
from runtime.shipped import default_bundle
from tests.authority_serving import Served, authority, faces, request_of
from tests.doors import refused
from tests.serving import (
    ROOT,
    THREADS,
    authority_files,
    change_manifest,
    children,
    erasablemask,
    files_holding,
    inverted,
    is_running,
    skip_without_server,
)

GROUP = ROOT / "examples" / "group.jpg"
SECRET = load_secret(default_bundle("authority") / "demo.key")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One for all tests that break nothing."""
    with authority(tmp_path_factory.mktemp("authority")) as running:
        yield running


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the shipped bundle that a test may change, with small batches so that it starts quickly."""
    folder = tmp_path / "bundle"
    shutil.copytree(default_bundle("authority"), folder)
    change_manifest(folder, max_batch=4)
    return folder


@pytest.fixture(scope="module")
def restorer() -> bytes:
    return unseal_model(open_bundle(default_bundle("authority")), SECRET)


@pytest.fixture(scope="module")
def expected(restorer: bytes) -> Callable[..., NDArray]:
    """What a local run makes of the faces of a seed."""
    backend = create_backend("ort-cpu", restorer, threads=THREADS)
    return lambda seed, count=1: backend.run({"faces": faces(seed, count)})["restored"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A protected group photo, and the file that erasing locally makes of it."""
    skip_without_server()
    folder = tmp_path_factory.mktemp("photos")
    protected, restored = folder / "protected.png", folder / "restored.png"
    done = erasablemask("protect", GROUP, "-o", protected, "--threads", THREADS)
    assert done.returncode == 0, done.stderr
    key = default_bundle("authority") / "demo.key"
    done = erasablemask("erase", protected, "-o", restored, "--threads", THREADS, "--key-file", key)
    assert done.returncode == 0, done.stderr
    return protected, restored.read_bytes()


# Whom it serves, and what it records.


def test_a_certificate_is_enough_to_erase_as_locally_bit_for_bit(
    served: Served, photos: tuple[Path, bytes], restorer: bytes, tmp_path: Path
) -> None:
    protected, local = photos
    restored = tmp_path / "restored.png"
    done = erasablemask("erase", protected, "-o", restored, *served.remote, *served.files.tls())
    assert done.returncode == 0, done.stderr
    assert restored.read_bytes() == local
    record = served.audit()[-1]
    assert (record["client"], record["outcome"], record["model_version"]) == ("CN=clerk", "restored", "1")
    assert record["faces"] > 1
    assert record["model_sha256"] == hashlib.sha256(restorer).hexdigest()
    shown = erasablemask("audit", "show", served.files.audit_log).stdout
    assert "CN=clerk" in shown


def test_a_record_holds_hashes_and_no_picture(served: Served, expected: Callable[..., NDArray]) -> None:
    with served.connect() as restore:
        restored = restore(7)
    np.testing.assert_array_equal(restored, expected(7))
    record = served.audit()[-1]
    assert record["input_sha256"] == hashlib.sha256(faces(7).tobytes()).hexdigest()
    assert record["output_sha256"] == hashlib.sha256(restored.tobytes()).hexdigest()
    assert max(len(str(value)) for value in record.values()) == 64


@pytest.mark.parametrize("case", ["none", "of another CA", "expired"])
def test_other_certificates_are_refused_and_no_file_is_written(
    served: Served, photos: tuple[Path, bytes], tmp_path: Path, case: str
) -> None:
    if case == "expired":
        issued = served.files.maker.issue("clerk", "client", valid=timedelta(minutes=-1))
    else:
        issued = CertificateMaker("second CA", timedelta(days=1)).issue("clerk", "client")
    (tmp_path / "other.pem").write_bytes(issued.certificate)
    (tmp_path / "other.key").write_bytes(issued.key)
    tls = served.files.tls(tmp_path / "other.pem")
    before, out = len(served.audit()), tmp_path / "restored.png"
    done = erasablemask(
        *("erase", photos[0], "-o", out, *served.remote, "--deadline", "1"),
        *(tls[:2] if case == "none" else tls),
    )
    assert done.returncode == 1
    assert re.search(r"Error: (no connection to|.*broke off).*certificate", done.stderr), done.stderr
    assert first_bytes(served, None if case == "none" else tmp_path / "other.pem") == b""
    assert first_bytes(served, served.files.folder / "clerk.pem") != b"", "what differs is the certificate"
    assert not out.exists()
    assert len(served.audit()) == before
    for line in served.server.log().splitlines():
        assert json.loads(line)["message"], line


def first_bytes(served: Served, client: Path | None) -> bytes:
    """What the door says to a certificate, with its key beside it: it begins HTTP/2, or hangs up."""
    context = ssl.create_default_context(cafile=served.files.folder / "ca.pem")
    context.set_alpn_protocols(["h2"])
    if client is not None:
        context.load_cert_chain(client, client.with_suffix(".key"))
    with (
        suppress(OSError),
        socket.create_connection(("127.0.0.1", served.server.ports["grpc"]), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        return secure.recv(64)
    return b""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("stranger", "the certificate's subject is not among those that are served"),
        ("clerk", "the certificate was revoked"),
    ],
)
def test_certified_clients_that_are_not_to_be_served_are_refused(
    served: Served, name: str, reason: str
) -> None:
    client = served.files.maker.issue(name, "client")
    with served.connect(client) as restore:
        if name == "clerk":
            assert restore(3).shape == (1, 128, 128, 3)
            served.files.revoke(client)
        before = len(served.audit())
        try:
            error = refused(lambda: restore(3))
        finally:
            served.files.revoke()
    assert (error.code(), error.details()) == (grpc.StatusCode.PERMISSION_DENIED, reason)
    (record,) = served.audit()[before:]
    assert (record["outcome"], record["reason"], record["client"]) == ("refused", reason, f"CN={name}")


def test_it_restores_and_nothing_else(served: Served, tmp_path: Path) -> None:
    health = ["health", "--role", "authority", "--url", f"grpcs://{served.server.url}", *served.files.tls()]
    before = len(served.audit())
    done = erasablemask(*health)
    assert (done.returncode, done.stdout) == (0, f"grpcs://{served.server.url}: restore answered\n")
    assert [record["faces"] for record in served.audit()[before:]] == [1]
    assert erasablemask(*health, "--model", "protect").returncode == 1
    before = len(served.audit())
    done = erasablemask(*health, "--no-inference")
    assert (done.returncode, done.stdout) == (0, f"grpcs://{served.server.url}: restore is ready\n")
    assert len(served.audit()) == before
    stranger = erasablemask(*health[:5], *served.files.tls()[:2])
    assert stranger.returncode == 1
    assert "Error: Triton could not describe restore: UNAVAILABLE" in stranger.stderr
    out = tmp_path / "protected.png"
    done = erasablemask("protect", GROUP, "-o", out, *served.remote, *served.files.tls(), "--deadline", "2")
    assert done.returncode == 1
    assert "unknown model" in done.stderr or "restore" in done.stderr, done.stderr
    assert not out.exists()


def test_nobody_goes_round_the_door(served: Served) -> None:
    """Triton itself, on loopback, wants certificates of this run, which no client has."""
    before = len(served.audit())
    ours = served.files.folder
    address = f"127.0.0.1:{served.server.flag('grpc-port')}"
    of_this_run = Path(served.server.flag("grpc-root-cert")).read_bytes()
    clerk = ((ours / "clerk.key").read_bytes(), (ours / "clerk.pem").read_bytes())
    server = tuple(Path(served.server.flag(f"grpc-server-{part}")).read_bytes() for part in ("key", "cert"))
    for ca, pair in (
        (of_this_run, (None, None)),
        (of_this_run, clerk),
        (of_this_run, server),
        ((ours / "ca.pem").read_bytes(), clerk),
    ):
        with grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, *pair)) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            error = refused(lambda stub=stub: stub.ModelInfer(request_of(faces(1)), timeout=5))
            assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert len(served.audit()) == before


def test_the_restorer_is_in_no_file_while_it_is_served(
    served: Served, restorer: bytes, tmp_path: Path
) -> None:
    with served.connect() as restore:
        restored = restore(8)
    folders = [served.server.repository(), Path("/tmp"), Path("/dev/shm"), Path("/var/tmp")]
    for needle in (faces(8).tobytes(), restored.tobytes(), restorer[100_000:]):
        assert files_holding(needle[5000:5064], folders, served.started) == []
    (tmp_path / "control").write_bytes(restorer)
    assert files_holding(restorer[105_000:105_064], [tmp_path], served.started) == [tmp_path / "control"]
    (tmp_path / "control").unlink()
    link = served.server.repository() / "restore" / "1" / "model.onnx"
    assert str(link.readlink()).startswith(f"/proc/{served.server.process.pid}/fd/")


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"server_certificate": None}, 2, "does not start without --server-certificate"),
        ({"client_ca": None}, 2, "does not start without --client-ca"),
        ({"audit_log": None}, 2, "does not start without --audit-log"),
        ({"key_file": None}, 2, "no secret: give --key-file FILE"),
        ({"key_file": Path("wrong.key")}, 1, "wrong key: the file was sealed with key id"),
        ({"client_ca": Path("none.pem")}, 1, "none.pem"),
    ],
)
def test_it_does_not_start_without_its_certificates_and_the_right_key(
    tmp_path: Path, changes: dict[str, Path | None], status: int, message: str
) -> None:
    files = authority_files(tmp_path)
    assert erasablemask("keygen", tmp_path / "wrong.key").returncode == 0
    given = files.options(**{name: path and tmp_path / path for name, path in changes.items()})
    done = erasablemask("serve", "--role", "authority", *given)
    assert (done.returncode, message in done.stderr) == (status, True), done.stderr


# What it does when something breaks.


def test_kills_cost_what_is_in_flight_and_an_update_is_recorded(
    tmp_path: Path, bundle: Path, restorer: bytes, expected: Callable[..., NDArray]
) -> None:
    with authority(tmp_path, bundle) as served:
        server = served.server
        triton = server.triton_pid()
        answered = load_while(served, lambda: os.kill(server.stub_pid("restore"), signal.SIGKILL), expected)
        server.wait_for("restore answers again")
        assert server.triton_pid() == triton
        answered += load_while(served, lambda: os.kill(triton, signal.SIGKILL), expected)
        server.wait_for("ready: ", times=2)
        assert server.triton_pid() != triton
        with served.connect() as restore:
            np.testing.assert_array_equal(restore(1), expected(1))
        outcomes = [record["outcome"] for record in served.audit()]
        assert outcomes.count("restored") == answered + 1
        assert "failed" in outcomes

        changed = inverted(restorer, "restored")
        replace_restorer(bundle, changed)
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("updated: restore 2")
        with served.connect() as restore:
            np.testing.assert_array_equal(restore(1), 255 - expected(1))
        record = served.audit()[-1]
        assert (record["model_version"], record["model_sha256"]) == ("2", hashlib.sha256(changed).hexdigest())

        renewed = CertificateMaker("a CA of clients only", timedelta(days=1))
        (served.files.folder / "clients.pem").write_bytes(renewed.ca.certificate)
        replace_restorer(bundle, b"no network, though its seal and hash are right")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("no update, the old version goes on serving")
        assert "no new certificate, the old one goes on: expected the same CAs of clients" in server.log()
        with served.connect() as restore:
            np.testing.assert_array_equal(restore(1), 255 - expected(1))
        assert served.audit()[-1]["model_sha256"] == hashlib.sha256(changed).hexdigest()
        assert server.stop() == 0


def load_while(
    served: Served, fault: Callable[[], None], expected: Callable[..., NDArray], clients: int = 4
) -> int:
    """Clients that ask until each has got right answers after a fault; how many they got."""
    done, rounds = threading.Event(), 3
    answers = [0] * clients
    errors: list[grpc.RpcError] = []

    def ask(index: int) -> None:
        wanted, after = expected(index), 0
        until = time.monotonic() + 60
        with served.connect() as restore:
            while after < rounds:
                assert time.monotonic() < until, errors
                struck = done.is_set()
                try:
                    restored = restore(index)
                except grpc.RpcError as error:
                    errors.append(error)
                    time.sleep(0.1)
                    continue
                np.testing.assert_array_equal(restored, wanted)
                answers[index] += 1
                after += struck

    with ThreadPoolExecutor(clients) as pool:
        work = [pool.submit(ask, index) for index in range(clients)]
        while min(answers) == 0 and not any(one.done() for one in work):
            time.sleep(0.01)
        fault()
        done.set()
        for one in work:
            one.result()
    assert errors
    return sum(answers)


def replace_restorer(folder: Path, data: bytes) -> None:
    """Another network under the same seal, with its right hash, as a new export would bring."""
    sealed = seal_bundle_model(data, SECRET)
    models = dict(open_bundle(folder).manifest.models)
    entry = models["restore"]
    (folder / entry.path).write_bytes(sealed)
    change_manifest(
        folder, models={**models, "restore": dataclasses.replace(entry, sha256=sha256_of(sealed))}
    )


def test_erasures_in_flight_are_finished_before_the_end(
    tmp_path: Path, bundle: Path, expected: Callable[..., NDArray]
) -> None:
    """Each request fills a batch: when the first is answered, the last has hardly begun."""
    change_manifest(bundle, max_batch=32)
    with authority(tmp_path, bundle) as served, served.connect() as restore, ThreadPoolExecutor(3) as pool:
        restore(0)
        together = threading.Barrier(3)

        def ask(seed: int) -> NDArray:
            together.wait(30)
            return restore(seed, 32)

        work = [pool.submit(ask, seed) for seed in range(3)]
        wait(work, timeout=30, return_when=FIRST_COMPLETED)
        served.server.process.send_signal(signal.SIGTERM)
        assert not all(one.done() for one in work)
        for seed, one in enumerate(work):
            np.testing.assert_array_equal(one.result(30), expected(seed, 32))
        assert served.server.process.wait(40) == 0
        assert [record["outcome"] for record in served.audit()] == ["restored"] * 4


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that a test may fill."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no small disk: root and the right to mount are needed")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_nothing_is_restored_while_the_logs_disk_is_full(
    tmp_path: Path, bundle: Path, small_disk: Path, expected: Callable[..., NDArray]
) -> None:
    with authority(tmp_path, bundle, small_disk / "audit.log") as served, served.connect() as restore:
        restore(0)
        ballast = small_disk / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1024))
        answered = until_refused(restore)
        np.testing.assert_array_equal(refusals_then(restore, ballast.unlink), expected(0))
        outcomes = [record["outcome"] for record in served.audit()]
        assert outcomes == ["restored"] * (1 + answered + 1)


def test_nothing_is_restored_while_the_log_cannot_grow(
    served: Served, expected: Callable[..., NDArray]
) -> None:
    """The same where no disk can be filled: a limit on the server's files."""
    before, pid = len(served.audit()), served.server.process.pid
    unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    size = served.files.audit_log.stat().st_size
    with served.connect() as restore:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size + 1500, unlimited[1]))
        try:
            answered = until_refused(restore)
            lift = lambda: resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)  # noqa: E731
            np.testing.assert_array_equal(refusals_then(restore, lift), expected(0))
        finally:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
    assert len(served.audit()) == before + answered + 1


def until_refused(restore: Callable[..., NDArray]) -> int:
    """How many erasures there was room for."""
    answered = 0
    while answered < 100:
        try:
            restore(0)
        except grpc.RpcError as error:
            found = error.code(), error.details()
            break
        answered += 1
    assert found == (grpc.StatusCode.UNAVAILABLE, "the request cannot be recorded, so it is refused")
    return answered


def refusals_then(restore: Callable[..., NDArray], make_room: Callable[[], Any]) -> NDArray:
    """The answer once there is room, and none before."""
    for _ in range(3):
        assert "cannot be recorded" in refused(lambda: restore(0)).details()
    make_room()
    return restore(0)


def test_nothing_is_left_when_the_supervisor_is_killed(tmp_path: Path, bundle: Path, restorer: bytes) -> None:
    with authority(tmp_path, bundle) as served:
        server = served.server
        with served.connect() as restore:
            restored = restore(9)
        triton, folder = server.triton_pid(), server.repository()
        started = [triton, *children(triton)]
        for pid in started:
            limits = Path(f"/proc/{pid}/limits").read_text()
            (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
            assert line.split()[4] in ("0", "1")
        server.process.kill()
        server.process.wait(10)
        until = time.monotonic() + 30
        while any(is_running(pid) for pid in started) and time.monotonic() < until:
            time.sleep(0.1)
        assert not any(is_running(pid) for pid in started)
        link = folder / "restore" / "1" / "model.onnx"
        assert link.is_symlink()
        assert not link.exists()
        for needle in (restorer[100_000:], faces(9).tobytes(), restored.tobytes()):
            place = [tmp_path, Path("/tmp"), Path("/dev/shm")]
            assert files_holding(needle[5000:5064], place, served.started) == []
        shutil.rmtree(folder.parent)
        assert served.audit()[-1]["outcome"] == "restored"


def test_junk_is_refused_and_leaves_only_json_in_the_log(served: Served) -> None:
    """Bytes that are no message, from a client with a certificate and from one without TLS."""
    with served.channel() as on, pytest.raises(grpc.RpcError):
        on.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"\xff no message", timeout=30)
    with socket.create_connection(("127.0.0.1", served.server.ports["grpc"]), timeout=5) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        connection.settimeout(5)
        with suppress(OSError):
            connection.recv(64)
    with served.connect() as restore:
        assert restore(0).shape == (1, 128, 128, 3)
    lines = served.server.log().splitlines()
    assert all(json.loads(line)["message"] for line in lines)
