"""The TensorRT backend on a GPU made of Python, whose rules ``tests/tensorrt_fakes.py`` states."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.backends import Backend
from runtime.backends.tensorrt import TensorRtBackend, plans_in
from runtime.engine_sidecar import BatchProfile, sidecar_path
from runtime.errors import BackendError, BundleError
from runtime.manifest import sha256_of

from .sidecars import ONNX, sidecar
from .tensorrt_fakes import PLAN, SIDE, FakeGpu

SIDECAR = sidecar(PLAN, architectures=("9.0",), batch=BatchProfile(min=1, opt=2, max=4), precision="fp32")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """A GPU with batches of 1 to 4, its modules installed."""
    return FakeGpu().install(monkeypatch)


def some(rows: int, start: int = 0) -> dict[str, NDArray]:
    """Inputs whose rows all differ."""
    faces = np.arange(start, start + rows, dtype=np.uint8)[:, None, None, None]
    return {
        "faces": np.broadcast_to(faces, (rows, SIDE, SIDE, 3)).copy(),
        "strength": np.linspace(0, 1, rows, dtype=np.float32)[:, None],
    }


def assert_right(inputs: dict[str, NDArray], outputs: dict[str, NDArray]) -> None:
    """``protected = faces + 10 * strength``, ``mean = the mean of faces``."""
    assert outputs.keys() == {"protected", "mean"}
    added = (10 * inputs["strength"]).astype(np.uint8)[:, :, None, None]
    np.testing.assert_array_equal(outputs["protected"], inputs["faces"] + added)
    np.testing.assert_allclose(outputs["mean"], inputs["faces"].mean((1, 2, 3))[:, None])


def assert_all_freed(gpu: FakeGpu) -> None:
    assert (gpu.memory, gpu.pinned, gpu.stack) == ({}, set(), [])


def test_runs_every_batch_of_its_profile_in_memory_that_it_has_from_the_start(gpu: FakeGpu) -> None:
    with TensorRtBackend(PLAN, sidecar=SIDECAR) as backend:
        assert isinstance(backend, Backend)
        assert backend.name == "tensorrt"
        assert sorted(map(len, gpu.memory.values())) == [
            4 * 4,
            4 * 4,
            4 * 48,
            4 * 48,
        ]  # max batch, bytes a row
        for rows in (1, 4, 2, 3):
            inputs = some(rows, start=rows)
            assert_right(inputs, backend.run(inputs))
        assert gpu.allocations == 4
    assert_all_freed(gpu)


def test_results_outlive_the_next_run(gpu: FakeGpu) -> None:
    first, second = some(3), some(3, start=100)
    with TensorRtBackend(PLAN, sidecar=SIDECAR) as backend:
        outputs = backend.run(first)
        backend.run(second)
    assert_right(first, outputs)


def test_takes_views_that_are_not_contiguous(gpu: FakeGpu) -> None:
    inputs = some(3)
    inputs["faces"] = inputs["faces"][::-1, ::-1]
    with TensorRtBackend(PLAN, sidecar=SIDECAR) as backend:
        assert_right(inputs, backend.run(inputs))


def test_threads_share_one_backend(gpu: FakeGpu) -> None:
    many = [some(1 + i % 4, start=i) for i in range(40)]
    with TensorRtBackend(PLAN, sidecar=SIDECAR) as backend, ThreadPoolExecutor(8) as pool:
        for inputs, outputs in zip(many, pool.map(backend.run, many), strict=True):
            assert_right(inputs, outputs)


def test_names_wrong_inputs(gpu: FakeGpu) -> None:
    right = some(2)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"faces": right["faces"]}, r"inputs are faces, strength; found faces"),
        ({}, "found none"),
        ({**right, "faces": right["faces"].astype(np.float32)}, r"'faces' must be uint8 \('N', 4, 4, 3\)"),
        ({**right, "strength": right["strength"][:, 0]}, r"found float32 \(2,\)"),
        ({**right, "strength": right["strength"][:1]}, r"as many rows of every input.*found \[1, 2\]"),
        (some(5), "takes 1 to 4 rows at once; found 5; pass them in parts"),
        (some(0), r"at least 1, found \[0\]"),
    ]
    with TensorRtBackend(PLAN, sidecar=SIDECAR) as backend:
        for inputs, message in wrong:
            with pytest.raises(BackendError, match=message):
                backend.run(inputs)
        assert_right(right, backend.run(right))


def test_a_smallest_batch_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(batch=(2, 2, 4)).install(monkeypatch)
    sidecar = replace(SIDECAR, batch=BatchProfile(min=2, opt=2, max=4))
    with (
        TensorRtBackend(PLAN, sidecar=sidecar) as backend,
        pytest.raises(BackendError, match="takes 2 to 4 rows at once; found 1"),
    ):
        backend.run(some(1))
    assert_all_freed(gpu)


def test_is_closed_after_its_context(gpu: FakeGpu) -> None:
    with TensorRtBackend(PLAN, sidecar=SIDECAR) as backend:
        pass
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.run(some(1))
    assert_all_freed(gpu)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan_sha256": "0" * 64}, "the plan's SHA-256 differs: expected 0000"),
        ({"onnx_sha256": "0" * 64}, "the SHA-256 of the plan's ONNX file differs"),
        ({"flavour_version": "10.4.0"}, r"needs tensorrt 10\.4\.0; found 10\.3\.0; rebuild"),
        ({"architectures": ("8.6", "8.9")}, r"capability 8\.6, 8\.9; found 9\.0; rebuild"),
    ],
)
def test_a_plan_that_is_not_the_described_one_never_reaches_tensorrt(
    gpu: FakeGpu, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(BackendError, match=message):
        TensorRtBackend(PLAN, sidecar=replace(SIDECAR, **change), onnx_sha256=sha256_of(ONNX))
    assert gpu.loaded == []
    assert_all_freed(gpu)


def test_code_for_the_processor_runs_only_if_allowed(gpu: FakeGpu) -> None:
    sidecar = replace(SIDECAR, version_compatible=True)
    with pytest.raises(BackendError, match=r"if you built the plan, allow it \(--allow-host-code\)"):
        TensorRtBackend(PLAN, sidecar=sidecar)
    assert gpu.loaded == []
    with TensorRtBackend(PLAN, sidecar=sidecar, allow_host_code=True) as backend:
        assert_right(some(2), backend.run(some(2)))
    assert gpu.host_code_allowed is True


def test_an_ordinary_plan_may_carry_no_code_even_if_that_is_allowed(gpu: FakeGpu) -> None:
    with TensorRtBackend(PLAN, sidecar=SIDECAR, allow_host_code=True):
        assert gpu.host_code_allowed is False


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("init", "CUDA has no GPU 0: cuInit failed"),
        ("deserialize_cuda_engine", "tensorrt cannot load the plan: deserializeCudaEngine: magic tag"),
        ("create_execution_context", "for want of GPU memory: it logged no reason"),
        ("mem_alloc", "tensorrt could not load the plan: CUDA said: cuMemAlloc failed: out of memory"),
        ("set_tensor_address", "refuses the memory for the tensor 'faces'"),
    ],
)
def test_a_failure_to_load_frees_everything(gpu: FakeGpu, call: str, message: str) -> None:
    gpu.fails = {call}
    with pytest.raises(BackendError, match=message):
        TensorRtBackend(PLAN, sidecar=SIDECAR)
    assert_all_freed(gpu)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("set_input_shape", r"refuses \(2, 4, 4, 3\) for 'faces'"),
        ("execute_async_v3", "the network failed on tensorrt: enqueueV3: misaligned address"),
        ("synchronize", "could not run the network: CUDA said: cuStreamSynchronize failed"),
    ],
)
def test_a_failed_run_is_an_error_and_the_next_one_is_right(gpu: FakeGpu, call: str, message: str) -> None:
    with TensorRtBackend(PLAN, sidecar=SIDECAR) as backend:
        gpu.fails = {call}
        with pytest.raises(BackendError, match=message):
            backend.run(some(2, start=50))
        gpu.fails = set()
        assert_right(some(4), backend.run(some(4)))
    assert_all_freed(gpu)


def test_there_is_no_second_gpu(gpu: FakeGpu) -> None:
    with pytest.raises(BackendError, match=r"CUDA has no GPU 1: .* use the backend ort"):
        TensorRtBackend(PLAN, sidecar=SIDECAR, device=1)


def test_a_sidecar_with_another_profile_is_refused(gpu: FakeGpu) -> None:
    sidecar = replace(SIDECAR, batch=BatchProfile(min=1, opt=2, max=4000))
    with pytest.raises(BackendError, match=r"takes batches of \(1, 2, 4\) of 'faces'.* says \(1, 2, 4000\)"):
        TensorRtBackend(PLAN, sidecar=sidecar)
    assert_all_freed(gpu)


@pytest.mark.parametrize(("name", "shape"), [("mean", (-1, -1)), ("mean", (7, 1)), ("strength", ())])
def test_tensors_of_other_shapes_are_refused(gpu: FakeGpu, name: str, shape: tuple[int, ...]) -> None:
    gpu.shapes[name] = shape
    with pytest.raises(BackendError, match=f"tensor '{name}' must be of any batch, else of fixed shape"):
        TensorRtBackend(PLAN, sidecar=SIDECAR)
    assert_all_freed(gpu)


def test_tensors_in_the_hosts_memory_are_refused(gpu: FakeGpu) -> None:
    gpu.host_tensors = {"strength"}
    with pytest.raises(BackendError, match=r"tensor 'strength' must be .* on the GPU"):
        TensorRtBackend(PLAN, sidecar=SIDECAR)


def test_missing_packages_are_named_with_the_extra(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """``None`` in ``sys.modules`` makes an import fail as if the package were absent."""
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(BackendError, match=r"PyCUDA cannot be imported.*pip install '\.\[gpu\]'"):
        TensorRtBackend(PLAN, sidecar=SIDECAR)
    for flavour, extra in (("tensorrt", "gpu"), ("tensorrt_rtx", "dev")):
        monkeypatch.setitem(sys.modules, flavour, None)
        with pytest.raises(BackendError, match=rf"'{flavour}' is needed.*pip install '\.\[{extra}\]'"):
            TensorRtBackend(PLAN, sidecar=replace(SIDECAR, flavour=flavour))


def test_a_pipeline_gets_its_networks_from_a_folder_of_plans(gpu: FakeGpu, tmp_path: Path) -> None:
    plan = tmp_path / "protect.plan"
    plan.write_bytes(PLAN)
    sidecar_path(plan).write_text(SIDECAR.to_json(), encoding="utf-8")
    with plans_in(tmp_path)("protect", ONNX) as backend:
        assert_right(some(2), backend.run(some(2)))
    with pytest.raises(BackendError, match="the SHA-256 of the plan's ONNX file differs"):
        plans_in(tmp_path)("protect", b"another network")
    with pytest.raises(BundleError, match=r"cannot read .*attributes\.plan"):
        plans_in(tmp_path)("attributes", ONNX)


def test_the_fake_has_nothing_that_tensorrt_has_not() -> None:
    """Against the real bindings: a backend that passes on invented calls would be worth nothing."""
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed (extra dev)")
    fake: Any = FakeGpu().tensorrt
    checked = 0
    for kind in ("Runtime", "ICudaEngine", "IExecutionContext", "ILogger", "TensorIOMode", "TensorLocation"):
        used = {name for name in vars(getattr(fake, kind)) if not name.startswith("_")}
        assert used <= set(dir(getattr(trt, kind))), kind
        checked += len(used)
    assert checked > 20
    assert trt.nptype(trt.DataType.UINT8) is np.uint8
    assert set(vars(fake)) - set(dir(trt)) <= {"__builtins__"}
