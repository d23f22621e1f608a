"""The backends keep their contract and say what is wrong."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi._pybind_state import EPFail

from runtime.backends import Backend, create_backend
from runtime.backends.fake import FakeBackend
from runtime.backends.ort import OrtBackend
from runtime.errors import BackendError

from .conftest import onnx_bytes

VECTOR = (TensorProto.FLOAT, ["n", 2])


@pytest.fixture
def add_and_subtract() -> bytes:
    """Two inputs, two outputs: ``sum = a + b``, ``difference = a - b``."""
    return onnx_bytes(
        [
            helper.make_node("Add", ["a", "b"], ["sum"]),
            helper.make_node("Sub", ["a", "b"], ["difference"]),
        ],
        {"a": VECTOR, "b": VECTOR},
        {"sum": VECTOR, "difference": VECTOR},
        {},
    )


@pytest.mark.parametrize("count", [1, 5])
def test_ort_runs_named_tensors(add_and_subtract: bytes, count: int) -> None:
    a, b = np.full((count, 2), 5, np.float32), np.full((count, 2), 3, np.float32)
    with create_backend("ort-cpu", add_and_subtract, threads=1) as backend:
        assert isinstance(backend, Backend)
        assert backend.name == "ort-cpu"
        outputs = backend.run({"b": b, "a": a})
    assert outputs.keys() == {"sum", "difference"}
    assert (outputs["sum"] == 8).all()
    assert (outputs["difference"] == 2).all()


def test_ort_names_wrong_inputs(add_and_subtract: bytes) -> None:
    one = np.ones((1, 2), np.float32)
    with create_backend("ort-cpu", add_and_subtract) as backend:
        with pytest.raises(BackendError, match=r"inputs are a, b; found a, c"):
            backend.run({"a": one, "c": one})
        with pytest.raises(BackendError, match=r"inputs are a, b; found none"):
            backend.run({})
        with pytest.raises(BackendError, match="the network failed on ort-cpu"):
            backend.run({"a": one, "b": np.ones((1, 3), np.float32)})


def test_ort_is_closed_after_its_context(add_and_subtract: bytes) -> None:
    one = np.ones((1, 2), np.float32)
    with create_backend("ort-cpu", add_and_subtract) as backend:
        pass
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.run({"a": one, "b": one})


@pytest.mark.parametrize(("options", "entry"), [({}, "0"), ({"spinning": True}, "1")])
def test_idle_threads_leave_the_cores_to_others(
    add_and_subtract: bytes, options: dict[str, bool], entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    session = onnxruntime.InferenceSession

    def look(model: bytes, given: onnxruntime.SessionOptions, **rest: Any) -> onnxruntime.InferenceSession:
        seen.append(given.get_session_config_entry("session.intra_op.allow_spinning"))
        return session(model, given, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", look)
    OrtBackend(add_and_subtract, **options)
    assert seen == [entry]


def test_ort_refuses_a_broken_model() -> None:
    with pytest.raises(BackendError, match="cannot load the network"):
        create_backend("ort-cpu", b"no model")


def test_an_absent_provider_is_an_error_and_not_the_cpu(
    add_and_subtract: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    for provider, name in (("cuda", "CUDAExecutionProvider"), ("tensorrt", "TensorrtExecutionProvider")):
        with pytest.raises(BackendError, match=f"has no {name} ") as caught:
            create_backend(f"ort-{provider}", add_and_subtract)
        assert str(caught.value).endswith(
            "run in the checkout: pip install '.[gpu]'; "
            "pip uninstall --yes onnxruntime onnxruntime-gpu; pip install onnxruntime-gpu"
        )


def test_a_provider_that_falls_back_is_an_error(
    add_and_subtract: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime lists CUDA, but gives the CPU when CUDA's libraries are missing."""

    class CpuSession:
        def __init__(self, *_: object, **__: object) -> None:
            """Takes whatever a session takes."""

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime, "InferenceSession", CpuSession)
    with pytest.raises(BackendError, match="asked for CUDAExecutionProvider, ONNX Runtime gave CPU"):
        create_backend("ort-cuda", add_and_subtract)


def test_a_provider_that_fails_in_a_run_is_not_exchanged_for_another(
    add_and_subtract: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime's own way is to say so on standard output and go on with the CPU."""

    backend = OrtBackend(add_and_subtract)
    real, calls = backend._session._sess, itertools.count()

    class FailingOnce:
        def run(self, *given: object) -> object:
            if next(calls) == 0:
                raise EPFail("the device is lost")
            return real.run(*given)

        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

    monkeypatch.setattr(backend._session, "_sess", FailingOnce())
    one = np.ones((1, 2), np.float32)
    with pytest.raises(BackendError, match="the network failed on ort-cpu: the device is lost"):
        backend.run({"a": one, "b": one})
    assert capsys.readouterr().out == ""


def test_unknown_names_are_listed(add_and_subtract: bytes) -> None:
    with pytest.raises(BackendError, match="unknown backend 'nothing'; known: auto, ort-cpu"):
        create_backend("nothing", add_and_subtract)
    with pytest.raises(BackendError, match="unknown provider 'tpu'; known: cpu, cuda, tensorrt"):
        OrtBackend(add_and_subtract, provider="tpu")


def test_fake_answers_and_remembers() -> None:
    with FakeBackend(lambda inputs: {"y": inputs["x"] + 1}) as backend:
        assert isinstance(backend, Backend)
        assert backend.run({"x": np.array([1])})["y"] == 2
        assert [call.keys() for call in backend.calls] == [{"x"}]
    with pytest.raises(BackendError, match="closed"):
        backend.run({})
