"""A batch in shares side by side: the same answers, whoever computes them."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from runtime.backends import create_backend, lanes, openvino
from runtime.backends.base import Tensors
from runtime.backends.fake import FakeBackend
from runtime.backends.lanes import LanesBackend, create_for_batches
from runtime.errors import BackendError
from runtime.manifest import open_bundle
from runtime.shipped import default_bundle


class Made:
    """Networks that double, and what each was made for and asked."""

    def __init__(self) -> None:
        self.by_threads: list[tuple[int | None, FakeBackend]] = []

    def __call__(self, threads: int | None) -> FakeBackend:
        backend = FakeBackend(lambda inputs: {"y": inputs["x"] * 2})
        self.by_threads.append((threads, backend))
        return backend

    def rows(self) -> list[tuple[int | None, list[int]]]:
        """Threads of each network and the batches that it computed."""
        return [(threads, [len(call["x"]) for call in backend.calls]) for threads, backend in self.by_threads]


def numbers(rows: int) -> Tensors:
    return {"x": np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)}


@pytest.mark.parametrize(
    ("threads", "rows", "shares"),
    [
        (2, 1, [(2, [1]), (1, []), (1, [])]),
        (2, 2, [(2, []), (1, [1]), (1, [1])]),
        (2, 5, [(2, [1]), (1, [2]), (1, [2])]),
        (6, 4, [(6, [1]), (2, [1]), (2, [1]), (2, [1])]),
        (16, 8, [(16, []), (4, [2]), (4, [2]), (4, [2]), (4, [2])]),
        (5, 8, [(5, [8])]),
        (1, 3, [(1, [3])]),
    ],
)
def test_batches_go_in_equal_shares_and_the_rest_together(
    threads: int, rows: int, shares: list[tuple[int, list[int]]]
) -> None:
    made = Made()
    with LanesBackend(made, threads=threads) as backend:
        assert backend.name == "fake"
        np.testing.assert_array_equal(backend.run(numbers(rows))["y"], 2 * numbers(rows)["x"])
    assert made.rows() == shares


def test_without_a_number_lanes_divide_the_cores_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes.os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 8, 9})
    made = Made()
    with LanesBackend(made, threads=None) as backend:
        backend.run(numbers(3))
    assert made.rows() == [(None, []), (2, [1]), (2, [1]), (2, [1])]


def test_lanes_run_at_the_same_time() -> None:
    meeting = threading.Barrier(2)

    def meet(inputs: Tensors) -> dict[str, np.ndarray]:
        meeting.wait(5)
        return {"y": inputs["x"]}

    with LanesBackend(lambda _: FakeBackend(meet), threads=2) as backend:
        np.testing.assert_array_equal(backend.run(numbers(2))["y"], numbers(2)["x"])


def test_an_error_in_a_lane_is_the_batchs() -> None:
    def fail(inputs: Tensors) -> dict[str, np.ndarray]:
        if inputs["x"][0, 0] == 3:
            raise BackendError("the network failed")
        return {"y": inputs["x"]}

    with LanesBackend(lambda _: FakeBackend(fail), threads=2) as backend:
        with pytest.raises(BackendError, match="the network failed"):
            backend.run(numbers(2))
        assert backend.run(numbers(1))["y"].shape == (1, 3)


def test_inputs_must_have_as_many_rows_as_one_another() -> None:
    with (
        LanesBackend(Made(), threads=2) as backend,
        pytest.raises(
            BackendError, match=r"expected as many rows of every input, at least 1, found \[1, 2\]"
        ),
    ):
        backend.run({"x": np.zeros((1, 3)), "y": np.zeros((2, 3))})


def test_closing_closes_every_network() -> None:
    made = Made()
    backend = LanesBackend(made, threads=2)
    backend.close()
    backend.close()
    for _, network in made.by_threads:
        with pytest.raises(BackendError, match="closed"):
            network.run(numbers(1))


def test_networks_whose_bits_allow_it_run_in_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def create(name: str, data: bytes, *, threads: int | None) -> FakeBackend:
        made.append((name, data, threads))
        return FakeBackend(lambda inputs: {"y": inputs["x"]})

    monkeypatch.setattr(lanes, "create_backend", create)
    with create_for_batches("ort-cpu", b"a network", threads=2):
        assert made == [("ort-cpu", b"a network", threads) for threads in (2, 1, 1)]
    made.clear()
    with create_for_batches("ort-cuda", b"a network", threads=2):
        assert made == [("ort-cuda", b"a network", 2)]


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("name", ["ort-cpu", "openvino-fp32"])
def test_pictures_have_the_same_bits_in_lanes(name: str, rows: int) -> None:
    """What a server promises (docs/serving.md)."""
    if name.startswith("openvino"):
        pytest.importorskip("openvino", reason="openvino is not installed: pip install '.[openvino]'")
    model = open_bundle(default_bundle("public")).read("protect")
    random = np.random.default_rng(0)
    inputs = {
        "faces": random.integers(0, 256, (rows, 128, 128, 3), np.uint8),
        "attributes": random.integers(0, 2, (rows, 13)).astype(np.float32),
        "strength": random.random((rows, 1), np.float32),
        "injection": random.random((rows, 1), np.float32),
    }
    with (
        create_backend(name, model, threads=2) as plain,
        create_for_batches(name, model, threads=2) as served,
    ):
        np.testing.assert_array_equal(served.run(inputs)["protected"], plain.run(inputs)["protected"])


@pytest.mark.parametrize(("threads", "pinned"), [(1, False), (2, True)])
def test_programs_that_divide_the_cores_are_not_pinned_to_the_same(
    monkeypatch: pytest.MonkeyPatch, threads: int, pinned: bool
) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed: pip install '.[openvino]'")
    monkeypatch.setattr(openvino.os, "sched_getaffinity", lambda _: {0, 1})
    model = open_bundle(default_bundle("public")).read("attributes")
    with openvino.OpenVinoBackend(model, threads=threads) as backend:
        program = backend._programs[1].get_compiled_model()
        assert program.get_property("ENABLE_CPU_PINNING") == pinned
