"""``export.build`` in every precision, with its gates, repositories and plans."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from onnx import ModelProto

from export import repository
from export.build import main
from export.errors import ParityError
from export.faces import synthetic_faces
from export.parity import in_torch
from export.parity_report import TaskParity
from export.precision import PRECISIONS, Precision, check_precision, store_fp16, widen
from export.run import load_run
from export.task_parity import Functions, embed, gate_task, look_at, measure_task
from runtime.engine_sidecar import read_engine
from runtime.manifest import open_bundle
from runtime.recognizers import load

from .test_precision import linear
from .tiny_run import NAMES, SIZE


def build(*options: object) -> Result:
    return CliRunner().invoke(main, [str(option) for option in options])


def needs(precision: str) -> None:
    """Skips where the gate's backend is not there."""
    if precision in ("fp16-mixed", "int8-gpu"):
        return
    openvino = pytest.importorskip("openvino")
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16-mixed" and "BF16" not in able:
        pytest.skip("this CPU does not compute in bf16")


@pytest.mark.parametrize("precision", [p for p in PRECISIONS if p not in ("fp32", "fp16")])
def test_what_is_asked_for_is_in_the_bundle(
    precision: Precision, run_folder: Path, faces: Path, tmp_path: Path
) -> None:
    """fp32 and fp16 have tests of their own."""
    needs(precision)
    result = build(
        "--run", run_folder, "--out", tmp_path / "out", "--precision", precision, "--demo", "--faces", faces
    )
    assert result.exit_code == 0, result.output
    assert "protected to owner" in result.output
    bundle = open_bundle(tmp_path / "out" / "public")
    assert bundle.manifest.precision == precision
    for name in bundle.manifest.models:
        model = ModelProto.FromString(bundle.read(name))
        assert [o.version for o in model.opset_import if o.domain == ""] == [bundle.manifest.opset]
    for name in ("protect", "attributes"):
        check_precision(ModelProto.FromString(bundle.read(name)), precision)
        served = tmp_path / "out" / "triton_models" / "public" / name
        assert (served / "1" / "model.onnx").read_bytes() == bundle.read(name)
        assert (served / "config.pbtxt").is_file()
        assert (served / "configs" / "trt.pbtxt").exists() == (precision != "int8")
    assert not list((tmp_path / "out" / "triton_models" / "authority").rglob("*.onnx"))


def test_int8_needs_enough_real_faces(run_folder: Path, tmp_path: Path) -> None:
    options = ("--run", run_folder, "--out", tmp_path / "out", "--precision", "int8", "--demo")
    result = build(*options)
    assert result.exit_code == 1
    assert "int8 needs the ranges that values have on real faces" in result.output
    np.save(tmp_path / "few.npy", synthetic_faces(60, SIZE))
    result = build(*options, "--faces", tmp_path / "few.npy")
    assert result.exit_code == 1
    assert "int8 needs 176 faces, 128 for the ranges and 48 others" in result.output
    assert not (tmp_path / "out").exists()


def test_one_precision_at_a_time(run_folder: Path, tmp_path: Path) -> None:
    result = build("--run", run_folder, "--out", tmp_path / "out", "--fp16", "--precision", "int8")
    assert result.exit_code == 2
    assert "found --fp16 and --precision int8" in result.output


def test_widening_undoes_the_storage() -> None:
    model = linear()
    again = widen(store_fp16(model))
    check_precision(again, "fp32")
    kept = {tensor.name: tensor for tensor in again.graph.initializer}
    original = {tensor.name: tensor for tensor in model.graph.initializer}
    rounded = np.frombuffer(original["W"].raw_data, np.float32).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(np.frombuffer(kept["W"].raw_data, np.float32), rounded)
    assert [node.op_type for node in again.graph.node] == ["MatMul", "Add"]


# Without a run: the shipped networks.


def test_without_a_run_the_shipped_networks_are_served(tmp_path: Path) -> None:
    result = build("--fp16", "--out", tmp_path / "served")
    assert result.exit_code == 0, result.output
    assert "no run was exported" in result.output
    assert "No TensorRT plans" in result.output
    assert "install the extras export and gpu" in result.output
    assert (tmp_path / "served" / "public" / "protect" / "1" / "model.onnx").is_file()
    assert build("--out", tmp_path / "served").exit_code == 0, "its own files may be replaced"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--precision", "int8"), "the shipped networks are in fp16; for int8 name a training run"),
        (("--demo",), "--demo is about exporting a run"),
        (("--faces", "."), "--faces is about exporting a run"),
        (("--target-gpu", "8.9"), "are about --tensorrt"),
    ],
)
def test_what_needs_a_run_says_so(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    result = build(*options, "--out", tmp_path / "out")
    assert result.exit_code != 0
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_a_run_needs_a_folder_for_its_bundles(run_folder: Path) -> None:
    result = build("--run", run_folder)
    assert result.exit_code == 2
    assert "expected --out" in result.output


# TensorRT.


def test_plans_compute_in_half_and_stand_for_the_bundles_files(run_folder: Path, tmp_path: Path) -> None:
    """RTX's plans are for the runtime's own backend: Triton has no library for them."""
    pytest.importorskip("tensorrt_rtx")
    out = tmp_path / "out"
    result = build("--run", run_folder, "--out", out, "--fp16", "--demo", "--tensorrt", "tensorrt_rtx")
    assert result.exit_code == 0, result.output
    assert "TensorRT plan of protect: tensorrt_rtx" in result.output
    bundle = open_bundle(out / "public")
    repositories = out / "triton_models"
    for name in ("protect", "attributes"):
        _, sidecar = read_engine(repositories / "engines" / f"{name}.plan")
        assert sidecar.precision == "fp16"
        assert sidecar.onnx_sha256 == bundle.manifest.models[name].sha256
        assert sidecar.batch.max == bundle.manifest.max_batch
    assert not list(repositories.rglob("model.plan"))
    assert not list(out.rglob("restore*.plan*"))
    # The bundle alone is enough for the same, on the machine that serves.
    again = tmp_path / "again"
    options = ["--bundle", str(out), "--out", str(again), "--tensorrt", "tensorrt_rtx"]
    result = CliRunner().invoke(repository.main, options)
    assert result.exit_code == 0, result.output
    assert {path.name for path in (again / "engines").iterdir()} == {
        path.name for path in (repositories / "engines").iterdir()
    }


def test_plans_that_were_demanded_and_cannot_be_had_are_an_error(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    for options in (("--run", run_folder, "--demo"), ()):
        result = build(*options, "--out", tmp_path / "out", "--fp16", "--tensorrt")
        assert result.exit_code == 1
        assert "'tensorrt' is needed for this and is not installed" in result.output
        assert "Nothing was written." in result.output
        assert not (tmp_path / "out").exists()


def test_int8_has_no_plans(run_folder: Path, faces: Path, tmp_path: Path) -> None:
    result = build(
        *("--run", run_folder, "--out", tmp_path / "out", "--precision", "int8", "--faces", faces, "--demo"),
        *("--tensorrt", "tensorrt_rtx"),
    )
    assert result.exit_code == 1
    assert (
        "TensorRT plans are built of bundles in fp32, fp16, fp16-mixed, bf16-mixed, int8-gpu" in result.output
    )
    assert "export with --precision int8-gpu" in result.output


# The gate in the task's units.


def functions(run_folder: Path) -> Functions:
    return Functions(**{part.name: in_torch(part.module) for part in load_run(run_folder).parts})


def measured(trained: Functions, exported: Functions, target: np.ndarray | None) -> TaskParity:
    faces, recognizer = synthetic_faces(5, SIZE), load()
    seen = [look_at(n, faces, recognizer, strength=0.5, injection=0.1) for n in (trained, exported)]
    return measure_task(*seen, embed(faces, recognizer), recognizer, target)


def test_equal_networks_do_the_same_work(run_folder: Path) -> None:
    networks = functions(run_folder)
    target = np.zeros(128, np.float32)
    target[0] = 1
    parity = measured(networks, networks, target)
    assert (parity.target_drift, parity.own_drift, parity.restored_drift) == (0, 0, 0)
    assert (parity.kept_attributes, parity.ssim, parity.faces) == (1, 1, 5)
    assert parity.asr is not None
    assert parity.asr[0] == parity.asr[1]
    assert parity.flips == (0, 0)
    gate_task(parity, "fp32")


def test_another_protection_is_found_out(run_folder: Path) -> None:
    networks = functions(run_folder)
    other = Functions(
        protect=lambda inputs: [255 - inputs["faces"]],
        attributes=lambda inputs: [np.zeros((len(inputs["faces"]), len(NAMES)), np.float32)],
        restore=networks.restore,
    )
    parity = measured(networks, other, None)
    assert parity.target_drift is None
    with pytest.raises(ParityError, match=r"by the bounds of int8 on 5 faces seen by sface"):
        gate_task(parity, "int8")


def test_only_faces_with_the_same_attributes_must_look_the_same(run_folder: Path) -> None:
    """Probabilities beside one half fall to either side; how many may is a bound of its own."""
    networks = functions(run_folder)

    def with_one_flipped(inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        probabilities = networks.attributes(inputs)[0].copy()
        probabilities[0, 0] = 1 - probabilities[0, 0]
        return [probabilities]

    def spoiling_the_first(inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        protected = networks.protect(inputs)[0].copy()
        protected[0] = 255 - protected[0]
        return [protected]

    spoilt = functions(run_folder)
    spoilt = Functions(protect=spoiling_the_first, attributes=spoilt.attributes, restore=spoilt.restore)
    flipped = Functions(protect=spoiling_the_first, attributes=with_one_flipped, restore=spoilt.restore)
    assert measured(networks, spoilt, None).ssim < 0.5
    parity = measured(networks, flipped, None)
    assert parity.ssim == 1
    assert parity.kept_attributes == 1 - 1 / (5 * len(NAMES))


GOOD = {
    "recognizer": "r",
    "faces": 48,
    "target_drift": 0.0,
    "own_drift": 0.0,
    "restored_drift": 0.0,
    "asr": (0.9, 0.9),
    "esr": (1.0, 1.0),
    "flips": (1, 1),
    "kept_attributes": 1.0,
    "ssim": 1.0,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_drift": 0.2}, r"cosine to the target moves by 0\.200, allowed 0\.02"),
        ({"own_drift": float("nan")}, "cosine to itself moves by nan"),
        ({"restored_drift": 0.2}, "a restored face's cosine"),
        ({"flips": (2, 0)}, "2 of 48 protected faces get another verdict, allowed 1"),
        ({"flips": (0, 3)}, "3 of 48 restored faces get another verdict"),
        ({"kept_attributes": 0.9}, r"0\.9000 of the attributes agree"),
        ({"ssim": 0.9}, r"least SSIM of a protected face 0\.9000"),
    ],
)
def test_every_bound_of_the_task_is_held(change: dict, message: str) -> None:
    gate_task(TaskParity(**GOOD), "fp16")  # type: ignore[arg-type]
    with pytest.raises(ParityError, match=message):
        gate_task(TaskParity(**{**GOOD, **change}), "fp16")


def test_a_failed_task_writes_nothing(
    run_folder: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "export.comparison.measure_task", lambda *_, **__: TaskParity(**{**GOOD, "ssim": 0.1})
    )
    (tmp_path / "target.json").write_text(json.dumps({"sface": [1.0] + 127 * [0.0]}))
    result = build(
        *("--run", run_folder, "--out", tmp_path / "out", "--fp16", "--faces", faces),
        *("--target-embedding", tmp_path / "target.json"),
    )
    assert result.exit_code == 1
    assert "Nothing was written." in result.output
    assert list(tmp_path.iterdir()) == [tmp_path / "target.json"]


def test_overwriting_spares_models_of_somebody_else(run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--run", run_folder, "--out", out, "--fp16", "--demo", "--overwrite")
    assert build(*options).exit_code == 0
    stranger = out / "triton_models" / "public" / "theirs" / "1" / "model.onnx"
    stranger.parent.mkdir(parents=True)
    stranger.write_bytes(b"a model")
    result = build(*options)
    assert result.exit_code == 1
    assert "this command did not write public/theirs/1/model.onnx" in result.output
    assert stranger.read_bytes() == b"a model"
