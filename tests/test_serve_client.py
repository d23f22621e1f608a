"""Clients of a real server of the shipped public bundle: gRPC, HTTP through its door, shared memory."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from click.testing import CliRunner
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc import service_pb2_grpc as services

from export.faces import synthetic_faces
from runtime.backends import create_backend
from runtime.backends.triton import TritonServer
from runtime.backends.triton_wire import MEMORY_PREFIX
from runtime.cli import main
from runtime.errors import BackendError
from runtime.manifest import Bundle, open_bundle
from runtime.shipped import default_bundle
from tests.serving import THREADS, Running, serving, skip_without_server

GROUP = Path(__file__).parents[1] / "examples" / "group.jpg"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(default_bundle("public"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    skip_without_server()
    with serving(tmp_path_factory.mktemp("serve"), "--shared-memory") as opened:
        yield opened


@pytest.fixture(params=["grpc", "http", "memory"])
def server(request: pytest.FixtureRequest, running: Running) -> TritonServer:
    if request.param == "http":
        return TritonServer(url=f"http://127.0.0.1:{running.ports['http']}")
    return TritonServer(url=f"grpc://{running.url}", shared_memory=request.param == "memory")


def inputs_of(count: int) -> dict[str, np.ndarray]:
    column = np.ones((count, 1), np.float32)
    return {
        "faces": synthetic_faces(count, 128),
        "attributes": np.zeros((count, 13), np.float32),
        "strength": 0.5 * column,
        "injection": 0.05 * column,
    }


@pytest.fixture(scope="module")
def still_serves(bundle: Bundle, running: Running) -> Iterator[Callable[[], None]]:
    """Checks that a good request is answered rightly."""
    inputs = inputs_of(2)
    with create_backend("ort-cpu", bundle.read("protect"), threads=THREADS) as local:
        expected = local.run(inputs)["protected"]
    with TritonServer(url=f"grpc://{running.url}").connect("protect", bundle.manifest) as remote:

        def check() -> None:
            np.testing.assert_array_equal(remote.run(inputs)["protected"], expected)

        yield check


@pytest.fixture(scope="module")
def local_png(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("local") / "group.png"
    done = CliRunner().invoke(main, ["protect", str(GROUP), "-o", str(out), "--threads", str(THREADS)])
    assert done.exit_code == 0, done.output
    return out.read_bytes()


def test_a_photo_is_protected_as_locally_bit_for_bit(
    server: TritonServer, local_png: bytes, tmp_path: Path
) -> None:
    out = tmp_path / "group.png"
    memory = ["--shared-memory"] if server.shared_memory else []
    done = CliRunner().invoke(
        main, ["protect", str(GROUP), "-o", str(out), "--backend", "triton", "--url", server.url, *memory]
    )
    assert done.exit_code == 0, done.output
    assert out.read_bytes() == local_png


@pytest.mark.parametrize("count", [1, 5, 64, 70])
def test_any_number_of_faces_comes_back_as_locally(server: TritonServer, bundle: Bundle, count: int) -> None:
    inputs = inputs_of(count)
    with (
        create_backend("ort-cpu", bundle.read("protect"), threads=THREADS) as local,
        server.connect("protect", bundle.manifest) as remote,
    ):
        np.testing.assert_array_equal(remote.run(inputs)["protected"], local.run(inputs)["protected"])


def test_knobs_that_are_no_numbers_are_refused(
    server: TritonServer, bundle: Bundle, still_serves: Callable[[], None]
) -> None:
    inputs = inputs_of(2)
    inputs["strength"][1] = np.nan
    with server.connect("protect", bundle.manifest) as remote, pytest.raises(BackendError, match="finite"):
        remote.run(inputs)
    still_serves()


@pytest.mark.parametrize(
    ("network", "rows", "cut", "message"),
    [
        ("protect", 1_000_000, 0, "expected 1 to 64 faces"),
        ("protect", 2**63 - 1, 0, "expected 1 to 64 faces"),
        ("protect", -1, 0, "expected 1 to 64 faces"),
        ("protect", 1, 1, "expected 49152 bytes of 'faces', found 49151"),
        ("attributes", 1_000_000, 0, "expected 1 to 64 faces"),
        ("attributes", 2**40, 0, "expected 1 to 64 faces"),  # Triton counts rows modulo 2**32
        ("attributes", 0, 0, "expected 1 to 64 faces"),
        ("attributes", 64, 0, "expected 3145728 bytes of 'faces', found 49152"),
        ("attributes", 1, 49152, "expected 49152 bytes of 'faces', found 0"),
    ],
)
def test_what_no_client_library_sends_is_refused(
    running: Running, still_serves: Callable[[], None], network: str, rows: int, cut: int, message: str
) -> None:
    """One face that claims to be more or fewer than it is, and one that ends too soon."""
    request = messages.ModelInferRequest(model_name=network)
    for name, values in inputs_of(1).items():
        faces = name == "faces"
        if network == "attributes" and not faces:
            continue
        shape = [rows, *values.shape[1:]] if faces else values.shape
        request.inputs.add(name=name, datatype="UINT8" if faces else "FP32", shape=shape)
        request.raw_input_contents.append(values.tobytes()[: values.nbytes - cut * faces])
    with grpc.insecure_channel(running.url) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            services.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
        assert message in caught.value.details()
    still_serves()


def post(running: Running, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", running.ports["http"], timeout=10)
    connection.request("POST", "/v2/models/protect/infer", body, headers or {})
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())["error"]
    connection.close()
    return found


def as_json(**changes: dict) -> bytes:
    given = [
        {
            "name": name,
            "shape": list(values.shape),
            "datatype": "UINT8" if values.dtype == np.uint8 else "FP32",
            "data": values.ravel().tolist(),
            **changes.get(name, {}),
        }
        for name, values in inputs_of(1).items()
        if changes.get(name, {}) is not None
    ]
    return json.dumps({"inputs": given}).encode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"faces": {"shape": [1_000_000, 128, 128, 3]}}, "input faces must have shape"),
        ({"faces": {"shape": [65, 128, 128, 3]}}, "input faces must have shape"),
        ({"faces": {"shape": [1, 64, 64, 3]}}, "input faces must have shape"),
        ({"faces": {"datatype": "FP32"}}, "must have datatype UINT8"),
        ({"strength": None}, "expected the inputs"),
        ({"strength": {"data": [float("nan")]}}, "NaN is not a number"),
    ],
)
def test_bad_requests_over_http_are_refused(
    running: Running, still_serves: Callable[[], None], changes: dict, message: str
) -> None:
    status, error = post(running, as_json(**changes))
    assert (status, message in error) == (400, True), error
    still_serves()


def test_a_truncated_body_is_no_request(running: Running, still_serves: Callable[[], None]) -> None:
    body = as_json()
    connection = http.client.HTTPConnection("127.0.0.1", running.ports["http"], timeout=10)
    connection.putrequest("POST", "/v2/models/protect/infer")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[:-1000])
    connection.close()
    still_serves()
    assert post(running, body[:-1000])[0] == 400
    still_serves()


VANISHING = """
import sys, threading, time
from tests.test_serve_client import inputs_of
from runtime.backends.triton import TritonServer
from runtime.backends.triton_wire import MEMORY_PREFIX
from runtime.manifest import open_bundle
from runtime.shipped import default_bundle
server = TritonServer(url=sys.argv[1], shared_memory=sys.argv[2] == "True")
backend = server.connect("protect", open_bundle(default_bundle("public")).manifest)
backend.run(inputs_of(1))
print("one", flush=True)
inputs = inputs_of(64)
sys.stdin.readline()
threading.Thread(target=backend.run, args=(inputs,)).start()
time.sleep(0.2)
print("sent", flush=True)
"""


def computed(running: Running) -> int:
    """Faces that ``protect`` has worked on so far."""
    with grpc.insecure_channel(running.url) as channel:
        stub = services.GRPCInferenceServiceStub(channel)
        answer = stub.ModelStatistics(messages.ModelStatisticsRequest(name="protect"), timeout=10)
    return sum(stats.inference_count for stats in answer.model_stats)


def test_a_client_that_vanishes_does_no_harm(
    running: Running, server: TritonServer, still_serves: Callable[[], None]
) -> None:
    """Killed while the server works on its 64 faces; nothing of its memory is left on the host."""
    before = {path.name for path in Path("/dev/shm").glob(f"{MEMORY_PREFIX}*")}
    client = subprocess.Popen(
        [sys.executable, "-c", VANISHING, server.url, str(server.shared_memory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    assert client.stdin is not None
    assert client.stdout is not None
    assert client.stdout.readline() == b"one\n"
    faces = computed(running)
    client.stdin.write(b"go on\n")
    client.stdin.flush()
    assert client.stdout.readline() == b"sent\n"
    client.send_signal(signal.SIGKILL)
    client.wait()
    until = time.monotonic() + 30
    while computed(running) < faces + 64:
        assert time.monotonic() < until, "the request had not reached the server"
        time.sleep(0.05)
    still_serves()
    assert {path.name for path in Path("/dev/shm").glob(f"{MEMORY_PREFIX}*")} <= before


def mapped(pid: int) -> int:
    """Regions of clients' shared memory that a process has."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return sum(MEMORY_PREFIX in line for line in lines)


def test_memory_of_late_and_refused_requests_is_given_back(
    running: Running, bundle: Bundle, still_serves: Callable[[], None]
) -> None:
    """By both sides, though not while the server may still write to it."""
    triton = running.triton_pid()
    before = mapped(triton)
    server = TritonServer(url=f"grpc://{running.url}", shared_memory=True, deadline_s=0.25)
    unsound = inputs_of(2)
    unsound["strength"][1] = np.nan
    with server.connect("protect", bundle.manifest) as remote:
        for _ in range(4):
            with pytest.raises(BackendError, match="gave no answer within"):
                remote.run(inputs_of(64))
        until = time.monotonic() + 60
        while (mapped(triton) - before, mapped(os.getpid())) != (1, 1):
            assert time.monotonic() < until
            with pytest.raises(BackendError, match=r"finite|gave no answer within"):
                remote.run(unsound)
            time.sleep(0.3)
        for _ in range(4):
            with pytest.raises(BackendError, match="finite"):
                remote.run(unsound)
        assert (mapped(triton) - before, mapped(os.getpid())) == (1, 1)
    assert mapped(triton) == before
    assert mapped(os.getpid()) == 0
    still_serves()


def test_another_clients_bad_batch_is_fused_with_nothing(running: Running, bundle: Bundle) -> None:
    """Triton would take zero faces of 128 rows for 128 faces, and fail what it fused them with."""
    inputs = {"faces": inputs_of(1)["faces"]}
    with create_backend("ort-cpu", bundle.read("attributes"), threads=THREADS) as local:
        expected = local.run(inputs)["probabilities"]
    request = messages.ModelInferRequest(model_name="attributes")
    request.inputs.add(name="faces", datatype="UINT8", shape=[0, 128, 128, 3])
    request.raw_input_contents.append(inputs["faces"].tobytes())
    end = time.monotonic() + 2.0

    def spoil() -> None:
        with grpc.insecure_channel(running.url) as channel:
            stub = services.GRPCInferenceServiceStub(channel)
            while time.monotonic() < end:
                with pytest.raises(grpc.RpcError, match="expected 1 to 64 faces in a request, found 0"):
                    stub.ModelInfer(request, timeout=10)

    def protect(_: int) -> None:
        while time.monotonic() < end:
            np.testing.assert_allclose(remote.run(inputs)["probabilities"], expected, atol=1e-5)

    spoiler = threading.Thread(target=spoil)
    spoiler.start()
    with (
        TritonServer(url=f"grpc://{running.url}").connect("attributes", bundle.manifest) as remote,
        ThreadPoolExecutor(4) as threads,
    ):
        list(threads.map(protect, range(4)))
    spoiler.join()
