"""Where an export is compared, and the record of it: ``parity.json``."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from onnx import ModelProto, numpy_helper

from export import comparison, engines, repository
from export.build import main
from export.mixed import to_fp16
from export.parity import Run, gate, in_backend
from export.parity_report import PARITY_NAME, ParityReport, read_report
from export.precision import PRECISIONS, SPECS, Precision
from export.task_parity import gate_task
from runtime import shipped
from runtime.authority import Secret, read_key_file, unseal_model
from runtime.backends import AUTO_ORDER
from runtime.errors import BundleError
from runtime.manifest import open_bundle, sha256_of
from runtime.shipped import default_bundle

REPORTS = Path(__file__).parents[1] / "benchmarks" / "results" / "parity"


def build(*options: object) -> Result:
    return CliRunner().invoke(main, [str(option) for option in options])


def computes_in_bf16() -> bool:
    openvino = pytest.importorskip("openvino")
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def test_the_report_lies_beside_the_bundles_and_reads_back(
    run_folder: Path, faces: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = build("--run", run_folder, "--out", out, "--fp16", "--demo", "--faces", faces)
    assert result.exit_code == 0, result.output
    public = open_bundle(out / "public")
    report = read_report(public)
    assert report.to_json() + "\n" == (out / PARITY_NAME).read_text()
    told = {name: model.sha256 for name, model in public.manifest.models.items()}
    key = Secret.from_key(read_key_file(out / "authority" / "demo.key"))
    told["restore"] = sha256_of(unseal_model(open_bundle(out / "authority"), key))
    assert report.models == told
    assert report.processor
    assert report.config_sha256 == public.manifest.training["config_sha256"]
    assert report.faces == "48 faces of crops.npy", "a path of this machine concerns nobody"
    assert report.not_measured == ""
    networks = {(c.program, c.bounds): [n.network for n in c.networks] for c in report.comparisons}
    trained = ["protect", "attributes", "restore"]
    expected = {("ort-cpu", "fp16"): ["onet"], ("ort-cpu", "fp32"): ["pnet"]}
    assert next(c.program for c in report.comparisons if c.task is not None) == "ort-cpu"
    first, second = report.comparisons[:2]
    assert [n.network for n in first.networks] == trained
    assert first.bounds == "fp16"
    assert networks.items() >= expected.items()
    if computes_in_bf16():
        assert (second.program, second.bounds) == ("openvino-bf16", "bf16-mixed")
        assert [n.network for n in second.networks] == trained
        assert second.task is not None
        assert second.networks[0].mean > first.networks[0].mean
        assert report.missing == {}


def test_a_backend_that_is_not_there_is_said_and_a_demanded_one_is_an_error(
    run_folder: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    out = tmp_path / "out"
    options = ("--run", run_folder, "--demo", "--faces", faces)
    result = build(*options, "--out", out, "--fp16")
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    for backend in ("openvino-bf16", "openvino-fp32"):
        assert f"Not compared in {backend}: OpenVINO is not installed; run in the checkout: pip" in said
    assert "pip install '.[openvino]'." in said, "it is no markup"
    missing = read_report(open_bundle(out / "public")).missing
    assert missing.keys() == {"openvino-bf16", "openvino-fp32"}
    result = build(*options, "--out", tmp_path / "int8", "--precision", "int8")
    assert result.exit_code == 1
    assert "int8 is compared in openvino-fp32, which is not there: OpenVINO is not insta" in result.output
    assert not (tmp_path / "int8").exists()


def turned(network: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One network's answers are wrong in one backend."""

    def off_there(name: str, model: bytes, where: str) -> Run:
        run = in_backend(name, model, where)
        if (name, where) != (network, backend):
            return run
        return lambda inputs: [255 - output for output in run(inputs)]

    monkeypatch.setattr(comparison, "in_backend", off_there)


@pytest.mark.parametrize(
    ("precision", "backend", "bounds"),
    [
        ("fp16", "ort-cpu", "fp16"),
        ("fp16", "openvino-bf16", "bf16-mixed"),
        ("fp16", "openvino-fp32", "fp16"),
        ("int8", "openvino-bf16", "int8"),
        ("int8", "ort-cpu", "int8"),
    ],
)
def test_every_backend_has_its_gate(
    precision: str,
    backend: str,
    bounds: str,
    run_folder: Path,
    faces: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not computes_in_bf16() and backend == "openvino-bf16":
        pytest.skip("this CPU does not compute in bf16")
    turned("restore", backend, monkeypatch)
    result = build("--run", run_folder, "--out", tmp_path / "out", "--precision", precision, "--faces", faces)
    assert result.exit_code == 1
    assert f"restore is not the network it was made from, by the bounds of {bounds}" in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("backend", "bounds"), [("ort-cpu", "fp16"), ("openvino-fp32", "fp16")])
def test_every_backend_has_its_gate_in_the_tasks_units(
    backend: str, bounds: str, run_folder: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pictures pass: what they are turned into is not looked at by the first gate."""
    pytest.importorskip("openvino")
    monkeypatch.setattr(comparison, "gate", lambda *_: None)
    turned("restore", backend, monkeypatch)
    result = build("--run", run_folder, "--out", tmp_path / "out", "--fp16", "--faces", faces)
    assert result.exit_code == 1
    assert f"do not do what the trained ones do, by the bounds of {bounds} on 48 faces" in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", PRECISIONS)
def test_whatever_auto_may_take_on_a_cpu_is_gated(precision: Precision) -> None:
    """ONNX Runtime has no bfloat16 there, and OpenVINO refuses what is quantised around zero."""
    cannot = {"bf16-mixed": {"ort-cpu"}, "int8-gpu": {"openvino-bf16", "openvino-fp32"}}
    taken = {name for name in AUTO_ORDER if not name.endswith("cuda")} - cannot.get(precision, set())
    assert {gate.backend for gate in SPECS[precision].gates} == taken


def off(model: ModelProto) -> ModelProto:
    """In half precision, and wrong."""
    half = to_fp16(model)
    for tensor in half.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim == 4:
            tensor.CopyFrom(numpy_helper.from_array(1.1 * values.astype(np.float16), tensor.name))
    return half


def test_the_graph_of_a_plan_is_compared_with_the_bundles_file(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    bundle, plans = tmp_path / "bundle", ("--tensorrt", "tensorrt_rtx")
    result = build("--run", run_folder, "--out", bundle, "--fp16", "--demo", *plans)
    assert result.exit_code == 0, result.output
    report = read_report(open_bundle(bundle / "public"))
    (graphs,) = [c for c in report.comparisons if c.program == "ort-cpu, the graphs of the plans"]
    assert graphs.bounds == "fp16-mixed"
    drifts = {n.network: n.mean for n in graphs.networks}
    stored = {n.network: n.mean for n in report.comparisons[0].networks}
    assert drifts["restore"] == stored["restore"], "it has no plan"
    assert drifts["protect"] > stored["protect"]

    monkeypatch.setattr(engines, "to_fp16", off)
    message = "protect is not the network it was made from, by the bounds of fp16-mixed"
    result = build("--run", run_folder, "--out", tmp_path / "out", "--fp16", "--demo", *plans)
    assert (result.exit_code, message in result.output) == (1, True), result.output
    command = ["--bundle", str(bundle), "--out", str(tmp_path / "out"), *plans]
    result = CliRunner().invoke(repository.main, command)
    assert (result.exit_code, f"no plan of 'protect': {message}" in result.output) == (1, True), result.output
    assert not (tmp_path / "out").exists()


# The shipped report, and those of the other precisions.


def check(report: ParityReport) -> None:
    """Every comparison in every backend is there, and keeps its bounds."""
    gates = [(gate.backend, gate.bounds) for gate in SPECS[report.precision].gates]
    assert [(c.program, c.bounds) for c in report.comparisons if c.task is not None] == gates
    for one in report.comparisons:
        for parity in one.networks:
            gate(parity, one.bounds)
        if one.task is not None:
            gate_task(one.task, one.bounds)


@pytest.mark.parametrize("precision", ["fp16-mixed", "bf16-mixed", "int8"])
def test_other_precisions_are_reported_of_the_same_run(precision: str) -> None:
    report = ParityReport.from_json((REPORTS / f"{precision}.json").read_bytes())
    assert report.precision == precision
    assert report.config_sha256 == read_report(open_bundle(default_bundle("public"))).config_sha256
    check(report)


def test_the_report_of_int8_gpu_keeps_its_bounds() -> None:
    """It is of an earlier run: the gate refuses the present one in it (docs/export.md)."""
    report = ParityReport.from_json((REPORTS / "int8-gpu.json").read_bytes())
    assert report.precision == "int8-gpu"
    check(report)


def test_the_shipped_report_tells_of_the_shipped_networks_and_is_shown(tmp_path: Path) -> None:
    report = read_report(open_bundle(default_bundle("public")))
    assert report.not_measured == ""
    assert {c.program for c in report.comparisons} == {"ort-cpu", "openvino-bf16", "openvino-fp32"}
    check(report)
    authority = open_bundle(default_bundle("authority"))
    key = Secret.from_key(read_key_file(authority.folder / "demo.key"))
    assert report.models["restore"] == sha256_of(unseal_model(authority, key))
    result = build("--fp16", "--out", tmp_path / "served")
    assert result.exit_code == 0, result.output
    assert f"Drift of the exported networks on {report.faces}:" in result.output
    assert "least SSIM" in result.output


EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "other networks": (
        lambda raw: raw["models"].update(protect="0" * 64),
        r"to tell of the bundle beside it, found another; export the run again",
    ),
    "another precision": (
        lambda raw: raw.update(precision="int8"),
        r"to tell of the bundle beside it, found another; export the run again",
    ),
    "nothing compared": (
        lambda raw: raw.update(comparisons=[]),
        r"comparisons must be a list of objects, not empty",
    ),
    "a difference in words": (
        lambda raw: raw["comparisons"][0]["networks"][0].update(max="x"),
        r"max must be a number from 0 up",
    ),
    "one rate": (
        lambda raw: raw["comparisons"][0]["task"].update(asr=[0.5]),
        r"asr must be two numbers from 0 up, or null",
    ),
    "no task but zero": (
        lambda raw: raw["comparisons"][0].update(task=0),
        r"task must be an object, or null",
    ),
    "a list of what is missing": (
        lambda raw: raw.update(missing=["a"]),
        r"missing must be a mapping of texts",
    ),
    "a comparison of nothing": (
        lambda raw: raw.update(comparisons=3),
        r"parity\.json has a missing, unknown or malformed field",
    ),
    "no networks": (
        lambda raw: raw["comparisons"][0].pop("networks"),
        r"malformed field: 'networks'",
    ),
    "one more field": (
        lambda raw: raw["comparisons"][0]["task"].update(colour="red"),
        r"malformed field: .*'colour'",
    ),
    "another format": (lambda raw: raw.pop("format"), "expected parity.json in the format erasablemask-p"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_report_is_refused_and_nothing_is_written(
    edit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, message = EDITS[edit]
    copy = shutil.copytree(default_bundle("public").parent, tmp_path / "compact")
    monkeypatch.setattr(shipped, "default_bundle", lambda role: copy / role)
    path = copy / PARITY_NAME
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(BundleError, match=message):
        read_report(open_bundle(copy / "public"))
    result = build("--fp16", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "Nothing was written." in result.output
    assert not (tmp_path / "out").exists()


def test_a_report_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    copy = shutil.copytree(default_bundle("public").parent, tmp_path / "compact")
    (copy / PARITY_NAME).unlink()
    with pytest.raises(BundleError, match=r"cannot read .*parity\.json: No such file"):
        read_report(open_bundle(copy / "public"))


def test_malformed_json_is_no_report() -> None:
    with pytest.raises(BundleError, match=r"parity\.json is not valid JSON"):
        ParityReport.from_json("{")
