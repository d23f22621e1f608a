"""The client of a Triton server, with a server in this process."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from runtime.backends import Backend, create_backend
from runtime.backends.retries import BUSY_ATTEMPTS, Failure, TransportError, with_retries
from runtime.backends.triton import TritonBackend, TritonServer
from runtime.backends.triton_wire import MEMORY_PREFIX
from runtime.errors import BackendError, BundleError

from .triton_fakes import FakeTriton, manifest_of, model, tensor

HALVES = model([tensor("a", 2), tensor("b", 2)], [tensor("sum", 2), tensor("difference", 2)])
MODELS = {"protect": HALVES, "restore": HALVES}
BUSY = ("UNAVAILABLE", "[request id: <id_unknown>] Exceeds maximum queue size")
# The authority's door.
BUSY_DOOR = ("UNAVAILABLE", "busy; try again")
BROKEN = ("INTERNAL", "Stub process 'protect_0_0' is not healthy.")


@pytest.fixture
def fake() -> Iterator[FakeTriton]:
    def halves(inputs):
        return {"sum": inputs["a"] + inputs["b"], "difference": inputs["a"] - inputs["b"]}

    with FakeTriton({name: (entry, halves) for name, entry in MODELS.items()}) as server:
        yield server


@pytest.fixture(params=["grpc", "http", "memory"])
def way(request: pytest.FixtureRequest) -> str:
    return request.param


def connect(fake: FakeTriton, way: str, network: str = "protect", **settings) -> TritonBackend:
    server = TritonServer(
        url=fake.url("http" if way == "http" else "grpc"), shared_memory=way == "memory", **settings
    )
    return server.connect(network, manifest_of(MODELS))


def pair(rows: int) -> dict[str, np.ndarray]:
    a = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    return {"a": a, "b": a**2}


def shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir() if path.name.startswith(MEMORY_PREFIX)}


def test_named_tensors_come_back(fake: FakeTriton, way: str) -> None:
    before = shared_memory()
    with connect(fake, way) as backend:
        assert isinstance(backend, Backend)
        assert backend.name == "triton"
        for rows in (1, 5, 2, 8):
            inputs = pair(rows)
            found = backend.run(dict(reversed(inputs.items())))
            assert (found["sum"] == inputs["a"] + inputs["b"]).all()
            assert (found["difference"] == inputs["a"] - inputs["b"]).all()
        assert shared_memory() == before, "a region's name is gone while it is in use already"
        assert len(fake.memory) == (way == "memory"), "calls one after the other share a region"
    assert not fake.memory
    with pytest.raises(BackendError, match="closed"):
        backend.run(pair(1))
    backend.close()


def test_more_faces_than_a_batch_are_several_requests(fake: FakeTriton, way: str) -> None:
    with connect(fake, way) as backend:
        found = backend.run(pair(19))
    assert (found["sum"] == pair(19)["a"] + pair(19)["b"]).all()
    assert [len(inputs["a"]) for _, inputs, _ in fake.requests] == [8, 8, 3]


def test_threads_share_a_connection(fake: FakeTriton, way: str) -> None:
    """Four requests of 0.2 s each take less than their sum, and nobody gets another's answer."""
    fake.pause_s = 0.2
    with connect(fake, way) as backend, ThreadPoolExecutor(4) as threads:
        start_s = time.monotonic()
        answers = threads.map(lambda rows: backend.run(pair(rows)), range(1, 5))
        for rows, found in enumerate(answers, 1):
            assert (found["sum"] == pair(rows)["a"] + pair(rows)["b"]).all()
        assert time.monotonic() - start_s < 0.7


@pytest.mark.parametrize("faults", [[BUSY, BUSY], [BUSY_DOOR], [BROKEN], [("UNAVAILABLE", "Socket closed")]])
def test_what_is_safe_is_repeated(fake: FakeTriton, way: str, faults: list[tuple[str, str]]) -> None:
    with connect(fake, way) as backend:
        fake.faults.extend(faults)
        assert (backend.run(pair(2))["sum"] == pair(2)["a"] + pair(2)["b"]).all()
    assert len(fake.requests) == len(faults) + 1


@pytest.mark.parametrize("fault", [BUSY, BUSY_DOOR, BROKEN, ("UNAVAILABLE", "Socket closed")])
def test_what_an_authority_records_is_sent_once(fake: FakeTriton, way: str, fault: tuple[str, str]) -> None:
    with connect(fake, way, "restore") as backend:
        fake.faults.append(fault)
        message = (
            "is busy, tried 1 time: "
            if fault in (BUSY, BUSY_DOOR)
            else "not repeated by itself: run it again"
        )
        with pytest.raises(BackendError, match=message):
            backend.run(pair(2))
    assert len(fake.requests) == 1


def test_a_server_that_stays_busy_is_an_error(fake: FakeTriton, way: str) -> None:
    with connect(fake, way) as backend:
        fake.faults.extend([BUSY] * 20)
        with pytest.raises(BackendError, match=rf"is busy, tried {BUSY_ATTEMPTS} times: .*--in-flight"):
            backend.run(pair(2))


def test_what_the_server_refuses_is_not_repeated(fake: FakeTriton, way: str) -> None:
    with connect(fake, way) as backend:
        fake.faults.append(("INVALID_ARGUMENT", "strength has values that are not finite"))
        with pytest.raises(BackendError, match="refused 'protect': strength has values"):
            backend.run(pair(2))
    assert len(fake.requests) == 1


def test_the_deadline_holds(fake: FakeTriton, way: str) -> None:
    fake.pause_s = 1.0
    with connect(fake, way, deadline_s=0.3) as backend:
        start_s = time.monotonic()
        with pytest.raises(BackendError, match=r"no answer within 0\.3 s; .*--deadline"):
            backend.run(pair(1))
        assert time.monotonic() - start_s < 0.9
        fake.pause_s = 0
        assert backend.run(pair(1))["sum"].shape == (1, 2)


def test_a_server_that_was_started_again_gets_new_memory(fake: FakeTriton) -> None:
    with connect(fake, "memory") as backend:
        backend.run(pair(1))
        fake.memory.clear()
        assert (backend.run(pair(2))["sum"] == pair(2)["a"] + pair(2)["b"]).all()


@pytest.mark.parametrize("fault", [BUSY, BUSY_DOOR, ("INVALID_ARGUMENT", "expected finite numbers")])
def test_memory_of_a_refused_request_is_used_again(fake: FakeTriton, fault: tuple[str, str]) -> None:
    with connect(fake, "memory") as backend:
        for _ in range(20):
            fake.faults.extend([fault] * 6)
            with pytest.raises(BackendError):
                backend.run(pair(2))
            fake.faults.clear()
        assert fake.registrations == 1
        assert (backend.run(pair(2))["sum"] == pair(2)["a"] + pair(2)["b"]).all()
        assert fake.registrations == 1


def test_memory_of_a_late_request_is_given_back_when_the_server_is_done(fake: FakeTriton) -> None:
    """Until then other requests get other memory, and nothing grows with their number."""
    with connect(fake, "memory", deadline_s=0.2) as backend:
        fake.in_use, fake.pause_s = True, 0.5
        for late in range(1, 4):
            with pytest.raises(BackendError, match="gave no answer within"):
                backend.run(pair(2))
            assert len(fake.memory) == late
        time.sleep(0.6)
        fake.in_use, fake.pause_s = False, 0.0
        for _ in range(3):
            backend.run(pair(2))
            assert len(fake.memory) == 1


def test_memory_that_the_server_does_not_take_is_an_error(fake: FakeTriton) -> None:
    fake.allows_memory = False
    before = shared_memory()
    with connect(fake, "memory") as backend, pytest.raises(BackendError, match="shared memory was not accep"):
        backend.run(pair(1))
    assert shared_memory() == before


def test_wrong_tensors_are_not_sent(fake: FakeTriton, way: str) -> None:
    with connect(fake, way) as backend:
        for inputs, message in (
            ({"a": pair(1)["a"]}, r"inputs are a, b; found a$"),
            ({**pair(2), "a": pair(1)["a"]}, r"as many rows of every input"),
            (
                {**pair(2), "a": pair(2)["a"].astype(np.float64)},
                r"expected a as float32 \(2, 2\), found float64",
            ),
            (
                {**pair(2), "b": np.ones((2, 3), np.float32)},
                r"expected b as float32 \(2, 2\), found .*\(2, 3\)",
            ),
        ):
            with pytest.raises(BackendError, match=message):
                backend.run(inputs)
    assert not fake.requests


@pytest.mark.parametrize("answer", [{"sum": np.ones((1, 2), np.float32)}, {"sum": np.ones((1, 2), np.uint8)}])
def test_another_answer_than_asked_for_is_an_error(fake: FakeTriton, answer: dict[str, np.ndarray]) -> None:
    fake.models["protect"] = HALVES, lambda inputs: answer
    with connect(fake, "http") as backend, pytest.raises(BackendError, match="answered with another"):
        backend.run(pair(1))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            model([tensor("a", 2)], HALVES.outputs),
            r"expected the inputs a FP32 \[-1, 2\], b .*; found a FP32",
        ),
        (model(HALVES.inputs, [tensor("sum", 3), tensor("difference", 2)]), r"found .*sum FP32 \[-1, 3\]"),
        (model([tensor("a", 2), tensor("b", 2, dtype="uint8")], HALVES.outputs), r"found .*b UINT8"),
    ],
)
def test_a_server_with_another_model_is_refused(fake: FakeTriton, way: str, entry, message: str) -> None:
    fake.models["protect"] = entry, fake.models["protect"][1]
    with pytest.raises(BackendError, match=f"serves another 'protect' than the bundle's: .*{message}"):
        connect(fake, way)


def test_a_server_without_the_model_is_refused(fake: FakeTriton, way: str) -> None:
    del fake.models["restore"]
    with pytest.raises(BackendError, match="refused 'restore': Request for unknown model"):
        connect(fake, way, "restore")


def test_a_bundle_that_does_not_describe_the_network_is_an_error(fake: FakeTriton) -> None:
    with pytest.raises(BundleError, match="does not say what enters and leaves the network 'restore'"):
        TritonServer(url=fake.url("grpc")).connect("restore", manifest_of({"protect": HALVES}))


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_no_server_is_an_error_that_says_so(fake: FakeTriton, scheme: str) -> None:
    url = fake.url(scheme)
    fake.__exit__()
    with pytest.raises(BackendError, match=f"no connection to {url}, tried .*erasablemask serve"):
        TritonServer(url=url, deadline_s=0.3).connect("protect", manifest_of(MODELS))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "127.0.0.1:8001"}, r"expected the server's URL as grpc\|grpcs\|http\|https://host:port"),
        ({"url": "grpc://host"}, "URL"),
        ({"url": "grpc://host:port"}, "URL"),
        ({"url": "ftp://host:1"}, "URL"),
        ({"url": "http://host:1/v2"}, "URL"),
        ({"url": "grpc://host:1", "deadline_s": 0}, "above 0 s, found 0"),
        ({"url": "grpcs://host:1", "tls_cert": Path("c.pem")}, "needs its key"),
        ({"url": "http://host:1", "tls_ca": Path("c.pem")}, "use https://"),
        ({"url": "grpc://192.0.2.1:1", "shared_memory": True}, "on this host"),
        ({"url": "http://127.0.0.1:1", "shared_memory": True}, "needs gRPC"),
    ],
)
def test_settings_that_cannot_be_are_errors(settings: dict, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        TritonServer(**settings)


@pytest.mark.parametrize("scheme", ["grpcs", "https"])
def test_a_certificate_that_cannot_be_read_is_an_error(scheme: str, tmp_path: Path) -> None:
    server = TritonServer(url=f"{scheme}://127.0.0.1:1", tls_ca=tmp_path / "absent.pem")
    with pytest.raises(BackendError, match=r"a certificate or key cannot be used: .*--tls-ca"):
        server.connect("protect", manifest_of(MODELS))


def test_the_name_alone_is_no_backend() -> None:
    with pytest.raises(BackendError, match="a Triton server needs an address; give a TritonServer"):
        create_backend("triton", b"")


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_without_the_client_the_extra_is_named(scheme: str) -> None:
    code = (
        "import sys; sys.modules['tritonclient'] = None\n"
        "from runtime.backends.triton import TritonServer\n"
        "from runtime.errors import MissingExtraError\n"
        f"try: TritonServer(url='{scheme}://127.0.0.1:1').open_transport()\n"
        "except MissingExtraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install '.[triton]'" in done.stdout, done.stderr


class Clock:
    """Time that passes only in pauses."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds


def failing(failure: Failure, lefts: list[float]):
    def attempt(left_s: float) -> None:
        lefts.append(left_s)
        raise TransportError(failure, "no")

    return attempt


def test_pauses_grow_and_end_with_the_deadline() -> None:
    clock, lefts = Clock(), []
    with pytest.raises(TransportError) as caught:
        with_retries(
            failing(Failure.LOST, lefts),
            deadline_s=10,
            repeat={Failure.LOST},
            sleep=clock.sleep,
            now=lambda: clock.now_s,
        )
    assert clock.now_s < 10
    assert all(0.025 <= pause <= 1 for pause in clock.pauses)
    assert clock.pauses[0] <= 0.05 < 0.4 < clock.pauses[-1]
    assert lefts == sorted(lefts, reverse=True)
    assert lefts[0] == 10
    assert caught.value.attempts == len(lefts) == len(clock.pauses) + 1


@pytest.mark.parametrize("failure", [Failure.LATE, Failure.REFUSED, Failure.BUSY])
def test_what_may_not_be_repeated_is_tried_once(failure: Failure) -> None:
    lefts: list[float] = []
    with pytest.raises(TransportError):
        with_retries(failing(failure, lefts), deadline_s=10, repeat={Failure.LOST})
    assert len(lefts) == 1
