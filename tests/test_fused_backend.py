"""The backend that Triton's Python runs, with a stand-in for Triton's module."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.backends.fake import FakeBackend
from runtime.errors import BackendError

CONFIG = {
    "input": [{"name": "x", "dims": ["2"]}, {"name": "knob", "dims": ["1"]}],
    "output": [{"name": "y", "dims": ["2"]}],
}


class TritonError:
    """A message and a code."""

    INTERNAL, INVALID_ARG = "INTERNAL", "INVALID_ARG"

    def __new__(cls, message: str, code: str) -> Any:
        return f"{code}: {message}"


class Family:
    """Counts what is reported; a metric whose family is gone fails, as Triton's does."""

    COUNTER = 0
    alive: set[str]
    totals: dict[tuple[str, ...], float]

    def __init__(self, name: str, description: str, kind: int) -> None:
        assert description
        assert kind == self.COUNTER
        self.name = name
        self.alive.add(name)

    def __del__(self) -> None:
        self.alive.discard(self.name)

    def Metric(self, labels: dict[str, str]) -> Any:
        key, alive, totals = (self.name, *labels.values()), self.alive, self.totals

        def increment(value: float) -> None:
            assert key[0] in alive
            totals[key] = totals.get(key, 0) + value

        return SimpleNamespace(increment=increment)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module as the stub imports it."""
    fake = ModuleType("triton_python_backend_utils")
    fake.__dict__.update(
        get_input_tensor_by_name=lambda request, name: SimpleNamespace(as_numpy=lambda: request[name]),
        Tensor=lambda name, values: (name, values),
        TritonError=TritonError,
        InferenceResponse=lambda output_tensors, error=None: SimpleNamespace(
            outputs=dict(output_tensors), error=error
        ),
        MetricFamily=type("Fresh", (Family,), {"alive": set(), "totals": {}}),
    )
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    monkeypatch.setenv("ERASABLEMASK_STUB_BACKEND", "ort-cpu")
    name = "runtime.serving.triton_backend.model"
    sys.modules.pop(name, None)
    yield importlib.import_module(name)
    sys.modules.pop(name, None)


def started(model: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: FakeBackend) -> Any:
    """An instance whose network is ``backend``."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "model.onnx").write_bytes(b"a network")

    def create(name: str, data: bytes, *, threads: int | None) -> FakeBackend:
        assert (name, data, threads) == ("ort-cpu", b"a network", 3)
        return backend

    monkeypatch.setenv("ERASABLEMASK_STUB_THREADS", "3")
    monkeypatch.setattr(model, "create_for_batches", create)
    instance = model.TritonPythonModel()
    instance.initialize(
        {
            "model_config": json.dumps(CONFIG),
            "model_repository": str(tmp_path),
            "model_version": "7",
            "model_name": "protect",
        }
    )
    return instance


def doubling() -> FakeBackend:
    return FakeBackend(lambda inputs: {"y": inputs["x"] * 2 + inputs["knob"]})


def request(rows: int, start: float, knob: float = 0.0) -> dict[str, NDArray]:
    return {
        "x": np.arange(start, start + 2 * rows, dtype=np.float32).reshape(rows, 2),
        "knob": np.full((rows, 1), knob, np.float32),
    }


def test_requests_run_as_one_batch_and_each_gets_its_rows(
    model: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    backend = doubling()
    instance = started(model, monkeypatch, tmp_path, backend)
    requests = [request(1, 0), request(3, 10), request(2, 50)]
    responses = instance.execute(requests)
    assert [len(call["x"]) for call in backend.calls] == [6]
    for asked, response in zip(requests, responses, strict=True):
        assert response.error is None
        np.testing.assert_array_equal(response.outputs["y"], asked["x"] * 2)
    totals = model.pb_utils.MetricFamily.totals
    assert totals["erasablemask_faces_total", "protect"] == 6
    assert totals["erasablemask_batches_total", "protect"] == 1
    stages = [key[2] for key in totals if key[0] == "erasablemask_stage_seconds_total"]
    assert stages == ["gather", "compute", "split"]
    assert all(value >= 0 for value in totals.values())


def test_metrics_are_sent_together_once_a_second(model: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(model.time, "monotonic", lambda: now)
    metrics = model.Metrics("protect")
    totals = model.pb_utils.MetricFamily.totals
    for faces, at_s, sent in ((1, 100.0, 1), (2, 100.5, 1), (4, 100.9, 1), (8, 101.0, 15), (16, 101.5, 15)):
        now = at_s
        metrics.count(faces, (0.5, 1.0, 2.0))
        assert totals["erasablemask_faces_total", "protect"] == sent
    assert totals["erasablemask_batches_total", "protect"] == 4
    assert totals["erasablemask_stage_seconds_total", "protect", "split"] == 8


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_an_error_of_its_request_alone(
    model: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bad: float
) -> None:
    backend = doubling()
    instance = started(model, monkeypatch, tmp_path, backend)
    responses = instance.execute([request(1, 0), request(2, 5, bad), request(1, 9)])
    assert [response.error for response in responses] == [
        None,
        "INVALID_ARG: expected finite numbers in 'knob', found NaN or infinity",
        None,
    ]
    np.testing.assert_array_equal(responses[2].outputs["y"], [[18, 20]])
    (only,) = instance.execute([request(1, 0, bad)])
    assert only.error
    assert [len(call["x"]) for call in backend.calls] == [2]


def test_a_network_that_fails_answers_every_request_and_goes_on(
    model: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failing = True

    def run(inputs: Any) -> dict[str, NDArray]:
        if failing:
            raise BackendError("out of memory")
        return {"y": inputs["x"]}

    instance = started(model, monkeypatch, tmp_path, FakeBackend(run))
    responses = instance.execute([request(1, 0), request(1, 2)])
    assert [response.error for response in responses] == ["INTERNAL: out of memory"] * 2
    failing = False
    (response,) = instance.execute([request(1, 0)])
    assert response.error is None
    instance.finalize()


@pytest.mark.parametrize(
    "output", [{"y": np.zeros((1, 3))}, {"y": np.zeros((2, 2))}, {"z": np.zeros((1, 2))}]
)
def test_an_output_that_was_not_promised_is_an_error(
    model: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, output: dict[str, NDArray]
) -> None:
    instance = started(model, monkeypatch, tmp_path, FakeBackend(lambda inputs: output))
    (response,) = instance.execute([request(1, 0)])
    assert response.error.startswith("INTERNAL: expected the output 'y' of (1, 2), found ")
