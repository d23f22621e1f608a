"""The door before Triton's HTTP port: what is honest passes unchanged, nothing else reaches the server."""

from __future__ import annotations

import copy
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.backends.triton import TritonServer
from runtime.errors import ServingError
from runtime.serving.http_checks import HttpRefusedError, body_limit, check_infer
from runtime.serving.http_door import HttpDoor

from .triton_fakes import ECHO, MAX_BATCH, FakeTriton, manifest_of, wait_until

LIMIT = body_limit(ECHO, MAX_BATCH)
INFER = "/v2/models/protect/infer"
LENGTH = "Inference-Header-Content-Length"
NETWORK = {"protect": (ECHO, lambda inputs: {"protected": inputs["faces"]})}


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeTriton]:
    with FakeTriton(NETWORK) as server:
        yield server


@pytest.fixture(scope="module")
def door(fake: FakeTriton) -> Iterator[HttpDoor]:
    with HttpDoor(
        {"protect": ECHO}, max_batch=MAX_BATCH, upstream_port=fake.http_port, port=0, receive_s=1
    ) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _forget(fake: FakeTriton) -> None:
    fake.requests.clear()


def ask(
    door: HttpDoor, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, content
    finally:
        connection.close()


def send(door: HttpDoor, request: Any, binary: bytes = b"") -> tuple[int, bytes]:
    text = request if isinstance(request, bytes) else json.dumps(request).encode()
    return ask(door, "POST", INFER, text + binary, {LENGTH: str(len(text))} if binary else {})


def honest(rows: int = 2) -> dict[str, Any]:
    faces = np.arange(rows * 12).reshape(rows, 2, 2, 3) % 256
    return {
        "inputs": [
            {"name": "faces", "shape": [rows, 2, 2, 3], "datatype": "UINT8", "data": faces.tolist()},
            {"name": "strength", "shape": [rows, 1], "datatype": "FP32", "data": [[0.5]] * rows},
        ]
    }


def honest_binary(rows: int = 2) -> tuple[dict[str, Any], bytes]:
    request = honest(rows)
    for given_, size in zip(request["inputs"], (12, 4), strict=True):
        del given_["data"]
        given_["parameters"] = {"binary_data_size": size * rows}
    return request, bytes(range(12)) * rows + np.full(rows, 0.5, "<f4").tobytes()


def test_a_client_works_through_the_door(fake: FakeTriton, door: HttpDoor) -> None:
    server = TritonServer(url=f"http://127.0.0.1:{door.port}")
    with server.connect("protect", manifest_of({"protect": ECHO}, max_batch=MAX_BATCH)) as backend:
        faces = np.arange(60, dtype=np.uint8).reshape(5, 2, 2, 3)
        found = backend.run({"faces": faces, "strength": np.ones((5, 1), np.float32)})
    assert (found["protected"] == faces).all()
    assert len(fake.requests) == 2


@pytest.mark.parametrize("rows", [1, MAX_BATCH])
def test_honest_requests_pass(fake: FakeTriton, door: HttpDoor, rows: int) -> None:
    flat = honest(rows)
    flat["inputs"][0]["data"] = np.arange(rows * 12).tolist()
    flat |= {"id": "7", "parameters": {"timeout": 1000, "priority": 1, "binary_data_output": True}}
    flat["outputs"] = [{"name": "protected", "parameters": {"binary_data": True}}]
    for request, binary in ((honest(rows), b""), (flat, b""), honest_binary(rows)):
        status, content = send(door, request, binary)
        assert status == 200, content
    assert [inputs["faces"].shape for _, inputs, _ in fake.requests] == [(rows, 2, 2, 3)] * 3


def test_busy_stays_busy(fake: FakeTriton, door: HttpDoor) -> None:
    fake.faults.append(("UNAVAILABLE", "Exceeds maximum queue size"))
    assert send(door, honest()) == (503, b'{"error": "Exceeds maximum queue size"}')


def changed(path: tuple, value: Any) -> dict[str, Any]:
    request = copy.deepcopy(honest())
    place = request
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return request


def shared(**more: Any) -> dict[str, Any]:
    request, _ = honest_binary()
    request["inputs"][0]["parameters"] |= more
    return request


BAD = {
    "a huge shape": (changed(("inputs", 0, "shape"), [1_000_000, 2, 2, 3]), "must have shape"),
    "a batch too many": (honest(MAX_BATCH + 1), r"must have shape \['1..4', 2, 2, 3\]"),
    "no row": (changed(("inputs", 0, "shape"), [0, 2, 2, 3]), "must have shape"),
    "a negative length": (changed(("inputs", 0, "shape"), [-1, 2, 2, 3]), "must have shape"),
    "a length beyond 64 bits": (changed(("inputs", 0, "shape"), [2**64 + 2, 2, 2, 3]), "must have shape"),
    "a length that is true": (changed(("inputs", 1, "shape"), [2, True]), "must have shape"),
    "a length in floating point": (changed(("inputs", 1, "shape"), [2, 1.0]), "must have shape"),
    "another shape": (changed(("inputs", 0, "shape"), [2, 2, 2, 4]), "must have shape"),
    "a shape with a name": (changed(("inputs", 0, "shape"), {"0": 2}), "must have shape"),
    "two batches": (changed(("inputs", 1), honest(1)["inputs"][1]), "the same batch"),
    "another type": (changed(("inputs", 0, "datatype"), "FP32"), "must have datatype UINT8"),
    "an unknown input": (changed(("inputs", 0, "name"), "pixels"), "the model's inputs are faces, strength"),
    "a name that is a list": (changed(("inputs", 0, "name"), []), "the model's inputs are"),
    "an input twice": (changed(("inputs", 1), honest()["inputs"][0]), "each once"),
    "an input missing": ({"inputs": honest()["inputs"][:1]}, "expected the inputs faces, strength"),
    "no inputs": ({}, "must be a list"),
    "a list": ([], "must be a JSON object"),
    "an unknown field": (changed(("model",), "x"), "the request has 'model'"),
    "an unknown output": (changed(("outputs",), [{"name": "x"}]), "the model's outputs are protected"),
    "classification": (
        changed(("outputs",), [{"name": "protected", "parameters": {"classification": 3}}]),
        "'classification'",
    ),
    "shared memory": (shared(shared_memory_region="x"), "'shared_memory_region'"),
    "shared memory out": (
        changed(("outputs",), [{"name": "protected", "parameters": {"shared_memory_byte_size": 3}}]),
        "'shared_memory_byte_size'",
    ),
    "a sequence": (changed(("parameters",), {"sequence_id": 3}), "'sequence_id'"),
    "an endless timeout": (changed(("parameters",), {"timeout": 2**63}), "parameter timeout"),
    "a long id": (changed(("id",), "x" * 257), "id must be text"),
    "a byte of 256": (changed(("inputs", 0, "data", 0, 0, 0, 0), 256), "finite numbers of its datatype"),
    "a fraction of a byte": (changed(("inputs", 0, "data", 0, 0, 0, 0), 0.5), "finite numbers"),
    "text for a number": (changed(("inputs", 1, "data", 0, 0), "0.5"), "finite numbers"),
    "beyond float32": (changed(("inputs", 1, "data", 0, 0), 1e39), "finite numbers"),
    "NaN": (changed(("inputs", 1, "data", 0, 0), float("nan")), "NaN is not a number of JSON"),
    "data missing": (changed(("inputs", 0, "data"), []), r"must be \[2, 2, 2, 3\]"),
    "a value missing": (changed(("inputs", 0, "data", 1, 1, 1), [1, 2]), "finite numbers"),
    "infinity by overflow": (json.dumps(honest()).replace("0.5", "1e999").encode(), "finite numbers"),
    "a key twice": (b'{"inputs": [], ' + json.dumps(honest()).encode()[1:], "a key appears twice"),
    "a deep nest": (b'{"inputs": ' + b"[" * 60 + b"]" * 60 + b"}", "must be a list of JSON objects"),
    "a deeper nest": (b"[" * 20_000, "more parts than any request"),
    "many objects": (b"[" + b"{}," * 100 + b"{}]", "more parts"),
    "no JSON": (b"hello", "not valid JSON"),
    "UTF-16": (json.dumps(honest()).encode("utf-16"), "not valid JSON"),
    "not UTF-8": (b'{"id": "\xff"}', "not valid JSON"),
    "cut JSON": (json.dumps(honest()).encode()[:-1], "not valid JSON"),
    "more after the JSON": (json.dumps(honest()).encode() + b"{}", "not valid JSON"),
    "endless digits": (json.dumps(honest()).replace("0.5", "1" * 5000).encode(), "not valid JSON"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_are_refused(fake: FakeTriton, door: HttpDoor, case: str) -> None:
    request, message = BAD[case]
    status, content = send(door, request)
    assert status == 400, content
    assert re.search(message, json.loads(content)["error"]), content
    assert not fake.requests


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda request, binary: (request, binary[:-1]), "has 8 bytes, but only 7 follow"),
        (lambda request, binary: (request, binary + b"x"), "expected 32 bytes of binary tensors, found 33"),
        (lambda request, binary: (request, binary[:-4] + b"\xff" * 4), "not finite"),
        (lambda request, binary: (shared(binary_data_size=23), binary), "parameter binary_data_size"),
        (lambda request, binary: (shared(binary_data_size=2**62), binary), "parameter binary_data_size"),
        (lambda request, binary: (honest(), binary), "expected 0 bytes of binary tensors, found 32"),
        (
            lambda request, binary: (changed(("inputs", 0, "parameters"), {"binary_data_size": 24}), binary),
            "either",
        ),
    ],
)
def test_bad_binary_is_refused(fake: FakeTriton, door: HttpDoor, change: Callable, message: str) -> None:
    status, content = send(door, *change(*honest_binary()))
    assert (status, message in json.loads(content)["error"]) == (400, True), content
    assert not fake.requests


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Encoding": "deflate"}, 415),
        ({LENGTH: "-1"}, 400),
        ({LENGTH: "1e3"}, 400),
        ({LENGTH: "99999"}, 400),
        ({"Content-Length": str(LIMIT + 1)}, 413),
        ({"Transfer-Encoding": "chunked", "Content-Length": ""}, 400),
    ],
)
def test_bad_headers_are_refused(
    fake: FakeTriton, door: HttpDoor, headers: dict[str, str], status: int
) -> None:
    body = json.dumps(honest()).encode()
    assert ask(door, "POST", INFER, body, headers)[0] == status
    assert not fake.requests


def raw(door: HttpDoor, sent: bytes) -> bytes:
    """The beginning of what comes back for exactly these bytes."""
    with socket.create_connection(("127.0.0.1", door.port), timeout=5) as connection:
        connection.sendall(sent)
        return connection.recv(1 << 16)


def vanish(door: HttpDoor, sent: bytes) -> None:
    """Sends these bytes and is gone."""
    with socket.create_connection(("127.0.0.1", door.port), timeout=5) as connection:
        connection.sendall(sent)


def head(*headers: str) -> bytes:
    return "\r\n".join([f"POST {INFER} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def test_bodies_of_another_length_than_told_are_refused(fake: FakeTriton, door: HttpDoor) -> None:
    body = json.dumps(honest()).encode()
    vanish(door, head(f"Content-Length: {len(body) + 10}") + body)
    assert b" 400 " in raw(door, head(f"Content-Length: {len(body)}", "Content-Length: 3") + body)
    assert b" 411 " in raw(door, head())
    chunked = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    assert b" 411 " in raw(door, head("Transfer-Encoding: chunked") + chunked)
    assert b" 400 " in raw(door, head(f"{LENGTH}: 3", f"{LENGTH}: 4", f"Content-Length: {len(body)}") + body)
    time.sleep(0.1)
    assert not fake.requests
    assert send(door, honest())[0] == 200


def test_logs_hold_nothing_of_a_request(door: HttpDoor, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        assert b" 400 " in raw(door, b"POST portrait HTTP/x\r\n\r\n")
        send(door, changed(("id",), "portrait" * 99))
    assert "refused with 400: id must be text" in caplog.text
    assert "portrait" not in caplog.text


def test_a_body_that_does_not_come_is_given_up(fake: FakeTriton, door: HttpDoor) -> None:
    assert b" 408 " in raw(door, head("Content-Length: 100") + b"{")
    assert not fake.requests


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/protect", 200),
        ("GET", "/v2/models/restore", 404),
        ("GET", "/v2/repository/index", 404),
        ("POST", "/v2/repository/index", 404),
        ("POST", "/v2/repository/models/protect/unload", 404),
        ("GET", "/v2/systemsharedmemory/status", 404),
        ("POST", "/v2/systemsharedmemory/region/x/register", 404),
        ("GET", "/v2/trace/setting", 404),
        ("POST", "/v2/logging", 404),
        ("POST", "/v2/models/protect/generate", 404),
        ("GET", "/metrics", 404),
        ("GET", "/v2/models/protect/../../repository/index", 404),
        ("GET", "/v2/models/protect%2F..%2F..%2Frepository", 404),
        ("GET", INFER, 405),
        ("PUT", INFER, 405),
        ("POST", "/v2/models/protect", 405),
        ("POST", "/v2/health/live", 405),
        ("POST", "/v2/models/restore/infer", 404),
    ],
)
def test_only_the_listed_paths_are_open(door: HttpDoor, method: str, path: str, status: int) -> None:
    found, content = ask(door, method, path, b"{}" if method == "POST" else None)
    assert found == status
    assert status == 200 or "error" in json.loads(content)


Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Every place in a JSON value below its root."""
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for step, inner in steps for place in [(*path, step), *places(inner, (*path, step))]]


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_whatever_is_put_anywhere_is_refused_or_means_what_it_says(data: st.DataObject) -> None:
    """An accepted request has the right names, types, shapes, and as many finite numbers as these say."""
    path = data.draw(st.sampled_from(places(honest())))
    request = changed(path, data.draw(Json))
    try:
        check_infer(json.dumps(request).encode(), None, ECHO, MAX_BATCH)
    except HttpRefusedError:
        return
    shapes = {}
    for given_ in request["inputs"]:
        values = np.array(given_["data"], dtype=np.float64)
        assert np.isfinite(values).all()
        shapes[given_["name"]] = tuple(given_["shape"])
        assert values.size == np.prod(given_["shape"])
    assert shapes == {"faces": (2, 2, 2, 3), "strength": (2, 1)}


@given(body=st.binary(max_size=200), length=st.none() | st.integers(0, 300))
@settings(max_examples=300, deadline=None)
def test_no_bytes_do_anything_but_be_refused(body: bytes, length: int | None) -> None:
    with pytest.raises(HttpRefusedError):
        check_infer(body, length, ECHO, MAX_BATCH)


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damaged_request_reaches_the_server(fake: FakeTriton, door: HttpDoor, data: st.DataObject) -> None:
    """One byte of the JSON is lost or exchanged: what still reaches the server is a whole request."""
    request, binary = honest_binary()
    text = json.dumps(request).encode()
    at = data.draw(st.integers(0, len(text) - 1))
    text = text[:at] + data.draw(st.binary(max_size=1)) + text[at + 1 :]
    fake.requests.clear()
    status, content = send(door, text, binary)
    assert status in (200, 400), content
    assert (status == 200) == bool(fake.requests)
    for _, inputs, _ in fake.requests:
        assert {name: values.shape for name, values in inputs.items()} == {
            "faces": (2, 2, 2, 3),
            "strength": (2, 1),
        }


def test_closing_waits_for_requests_in_flight(fake: FakeTriton) -> None:
    fake.pause_s = 0.5
    try:
        door = HttpDoor({"protect": ECHO}, max_batch=MAX_BATCH, upstream_port=fake.http_port, port=0)
        door.start()
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(send(door, honest())[0]))
        thread.start()
        wait_until(lambda: bool(fake.requests))
        door.close()
        thread.join()
        assert found == [200]
        with pytest.raises(ConnectionError):
            send(door, honest())
        door.close()
    finally:
        fake.pause_s = 0.0


def test_what_is_in_flight_can_be_cut_off_while_the_door_closes(fake: FakeTriton) -> None:
    """A request that waits for Triton, and one whose body has not arrived."""
    fake.pause_s = 3.0
    door = HttpDoor({"protect": ECHO}, max_batch=MAX_BATCH, upstream_port=fake.http_port, port=0).start()
    body = json.dumps(honest()).encode()
    try:
        with ThreadPoolExecutor(1) as pool, ExitStack() as opened:
            for sent in (body, body[:9]):
                connection = socket.create_connection(("127.0.0.1", door.port), timeout=5)
                opened.enter_context(connection).sendall(head(f"Content-Length: {len(body)}") + sent)
            wait_until(lambda: len(door._answering) == 2)
            closing = pool.submit(door.close)
            with pytest.raises(TimeoutError):
                closing.result(0.2)
            door.cut()
            closing.result(2)
            assert connection.recv(1) == b""
        door.cut()
    finally:
        fake.pause_s = 0.0


def test_a_client_that_vanishes_does_no_harm(fake: FakeTriton, door: HttpDoor) -> None:
    fake.pause_s = 0.3
    body = json.dumps(honest()).encode()
    vanish(door, head(f"Content-Length: {len(body)}") + body)
    fake.pause_s = 0.0
    assert send(door, honest())[0] == 200


def test_a_server_that_is_not_there_is_said(fake: FakeTriton) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with HttpDoor({"protect": ECHO}, max_batch=MAX_BATCH, upstream_port=port, port=0) as door:
        status, content = send(door, honest())
    assert (status, "cannot be reached" in json.loads(content)["error"]) == (502, True)


def test_a_server_that_does_not_answer_is_given_up(fake: FakeTriton) -> None:
    fake.pause_s = 0.5
    try:
        with HttpDoor(
            {"protect": ECHO}, max_batch=MAX_BATCH, upstream_port=fake.http_port, port=0, answer_s=0.1
        ) as door:
            assert send(door, honest())[0] == 504
    finally:
        fake.pause_s = 0.0


def test_bodies_that_fill_the_memory_are_busy(door: HttpDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what has arrived counts: an announcement costs nothing, and so it locks nobody out."""
    wait_until(lambda: door._room.taken == 0)
    monkeypatch.setattr(door._room, "limit", 1000)
    with socket.create_connection(("127.0.0.1", door.port), timeout=5) as connection:
        connection.sendall(head("Content-Length: 1000") + b"{")
        wait_until(lambda: door._room.taken == 1)
        assert send(door, honest())[0] == 200
        connection.sendall(b" " * 998)
        wait_until(lambda: door._room.taken == 999)
        assert send(door, honest())[0] == 503
    wait_until(lambda: door._room.taken == 0)
    assert send(door, honest())[0] == 200


def test_a_body_that_is_alone_always_has_room(door: HttpDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_until(lambda: door._room.taken == 0)
    monkeypatch.setattr(door._room, "limit", 1)
    assert send(door, honest())[0] == 200


@pytest.mark.parametrize("port", [None, 70_000])
def test_a_port_that_cannot_be_had_is_an_error(fake: FakeTriton, door: HttpDoor, port: int | None) -> None:
    """None stands for one that is taken."""
    other = HttpDoor(
        {"protect": ECHO}, max_batch=MAX_BATCH, upstream_port=fake.http_port, port=port or door.port
    )
    with pytest.raises(ServingError, match=f"cannot listen on 127.0.0.1:{port or door.port}: .*another port"):
        other.start()
    other.close()
