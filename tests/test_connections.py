"""Connections that bring no request: doors hold so many and for so long, and files are left for the rest."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from runtime.backends.triton_http import HttpTransport
from runtime.serving import grpc_options, http_door
from runtime.serving.connections import OPEN_FILES, allow_open_files
from runtime.serving.http_door import HttpDoor

from .doors import CLERK, connect, open_door
from .grpc_doors import FakeTriton as FakeGrpc
from .grpc_doors import channel_to, door_to
from .triton_fakes import ECHO, MAX_BATCH, FakeTriton

# What a client of HTTP/2 begins with: the preface and no settings.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
FEW = 3
IDLE_S = 1.0
Place = tuple[int, Callable[[], None]]


@pytest.fixture(params=["grpc", "http", "authority"])
def door(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Place]:
    """A door's port, and an honest request to it."""
    for module in (grpc_options, http_door):
        monkeypatch.setattr(module, "MAX_CONNECTIONS", FEW)
        monkeypatch.setattr(module, "IDLE_S", IDLE_S)
    with ExitStack() as stack:
        if request.param == "authority":
            opened, _, _ = stack.enter_context(open_door(tmp_path / "audit.log"))

            def ask_authority() -> None:
                with connect(opened.port, CLERK, (("grpc.use_local_subchannel_pool", 1),)) as stub:
                    stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=5)

            yield opened.port, ask_authority
        elif request.param == "grpc":
            fake = FakeGrpc()
            stack.callback(fake.stop)
            proxy = stack.enter_context(door_to(fake))
            port = proxy.port

            def ask_grpc() -> None:
                with channel_to(proxy, ("grpc.use_local_subchannel_pool", 1)) as channel:
                    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                    stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=5)

            yield port, ask_grpc
        else:
            triton = stack.enter_context(FakeTriton({"protect": (ECHO, lambda inputs: {})}))
            http = HttpDoor({"protect": ECHO}, max_batch=MAX_BATCH, upstream_port=triton.http_port, port=0)
            port = stack.enter_context(http).port

            def ask_http() -> None:
                transport = HttpTransport("127.0.0.1", port, tls=None)
                transport.served("protect", 5)
                transport.close()

            yield port, ask_http


@contextmanager
def connections(port: int, count: int, first: bytes = b"") -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        opened = []
        for _ in range(count):
            opened.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5)))
            opened[-1].sendall(first)
            time.sleep(0.02)
        yield opened


def is_open(connection: socket.socket) -> bool:
    connection.settimeout(0.01)
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return True
    except OSError:
        pass
    return False


def test_what_connects_and_says_nothing_is_bounded_and_hung_up_on(door: Place) -> None:
    port, ask = door
    with connections(port, 3 * FEW) as silent:
        time.sleep(0.3)
        assert sum(map(is_open, silent)) <= FEW
        until = time.monotonic() + 30  # the authority's handshake has ten seconds
        while any(map(is_open, silent)):
            assert time.monotonic() < until
            time.sleep(0.1)
        ask()


@pytest.mark.parametrize("door", ["grpc", "http"], indirect=True)
def test_a_head_that_never_ends_is_hung_up_on(door: Place, request: pytest.FixtureRequest) -> None:
    port, ask = door
    http = "http" in request.node.callspec.id
    with connections(port, 1, b"GET /v2/health/ready HTTP/1.1\r\n" if http else PREFACE) as (slow,):
        begun = time.monotonic()
        while is_open(slow):
            assert time.monotonic() < begun + 20
            if http:
                slow.sendall(b"X: y\r\n")
            time.sleep(0.2)
        ask()


def test_a_client_comes_back_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the connection that the door has closed meanwhile a request would be lost."""
    monkeypatch.setattr(http_door, "IDLE_S", 0.2)
    network = {"protect": (ECHO, lambda inputs: {"protected": inputs["faces"]})}
    inputs = {"faces": np.zeros((1, 2, 2, 3), np.uint8), "strength": np.zeros((1, 1), np.float32)}
    with (
        FakeTriton(network) as triton,
        HttpDoor({"protect": ECHO}, max_batch=MAX_BATCH, upstream_port=triton.http_port, port=0) as opened,
    ):
        transport = HttpTransport("127.0.0.1", opened.port, tls=None)
        for _ in range(2):
            assert transport.infer("protect", inputs, ECHO.outputs, 5)["protected"].shape == (1, 2, 2, 3)
            time.sleep(1)
        transport.close()


@pytest.mark.parametrize(("hard", "expected"), [(OPEN_FILES + 1, OPEN_FILES), (1000, 1000)])
def test_files_are_allowed_as_far_as_the_system_lets(hard: int, expected: int) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < hard:
        pytest.skip(f"no hard limit of {hard} files can be had here")
    code = (
        "import logging, resource\n"
        "from runtime.serving.connections import allow_open_files\n"
        "logging.basicConfig(format='%(message)s')\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard}))\n"
        "allow_open_files()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == expected
    warned = f"expected that {OPEN_FILES} files may be open, found a limit of {hard}" in done.stderr
    assert warned == (expected < OPEN_FILES)


def test_no_limit_is_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (OPEN_FILES + 1, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: pytest.fail("set"))
    allow_open_files()
