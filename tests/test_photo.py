"""The benchmark of whole photos: what a stage is, what a cold start is, and what a network costs."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper

from benchmarks.latency import networks, photo
from benchmarks.latency.cold import cold_start
from benchmarks.latency.networks import flops_of
from benchmarks.latency.onnx_flops import flops_per_face
from benchmarks.latency.stages import STAGES, StageClock, spread, time_photo
from benchmarks.schema import read_result
from export.anonymise import AnonymiseRequest, build_anonymiser
from export.faces import inputs_of, synthetic_faces
from export.onnx_graph import to_onnx
from export.run import load_run
from runtime.pictures import read_picture
from runtime.results import ProtectResult
from runtime.shipped import default_bundle

from .tiny_anonymiser import anonymiser_run
from .tiny_run import NAMES, SIZE, save_run
from .tiny_training import Silent

PORTRAIT = Path(__file__).parents[1] / "examples" / "portrait.jpg"


def test_a_spread_by_hand() -> None:
    """0, 1, .. 100: the quantiles are their own values."""
    assert spread([float(ms) for ms in range(101)]) == {
        "median": 50.0,
        "quartiles": [25.0, 75.0],
        "p95": 95.0,
        "p99": 99.0,
        "calls": 101,
    }


def test_stages_add_up_to_the_total(tmp_path: Path) -> None:
    """Two visits of the network's stage count together; what no stage covers is the rest."""
    clock = StageClock()

    def work(pixels: np.ndarray) -> ProtectResult:
        for stage in ("detect", "align", "network", "network", "paste"):
            with clock.watch(stage):
                time.sleep(0.002)
        time.sleep(0.01)
        return ProtectResult(pixels=pixels, faces=(), strength=0.5, injection=0.0)

    with clock.watch("detect"):  # what was before does not count
        time.sleep(0.05)
    taken = time_photo(work, PORTRAIT, tmp_path / "out.jpg", clock)
    assert taken.keys() == {*STAGES, "total"}
    assert sum(taken[stage] for stage in STAGES) == pytest.approx(taken["total"])
    assert taken["network"] >= 4
    assert 2 <= taken["detect"] < 50
    assert taken["rest"] >= 10
    assert (
        np.abs(read_picture(tmp_path / "out.jpg").pixels - read_picture(PORTRAIT).pixels.astype(int)).max()
        < 40
    )


@pytest.mark.parametrize("name", ["protect", "restore"])
def test_a_graph_counts_as_its_network_does(name: str, tmp_path: Path) -> None:
    (part,) = (part for part in load_run(save_run(tmp_path / "tiny")).parts if part.name == name)
    inputs = inputs_of(part.name, synthetic_faces(2, SIZE), len(NAMES))
    examples = {key: torch.from_numpy(values[:2]) for key, values in inputs.items()}
    graph = to_onnx(part.module, examples, [part.output], metadata={}).SerializeToString()
    assert flops_per_face(graph) == flops_of(part, inputs)


def matrix_graph(operator: str, kind: int = TensorProto.FLOAT, product: int = TensorProto.FLOAT) -> bytes:
    """``(N, 8) x (8, 3)``."""
    nodes = [helper.make_node(operator, ["a", "b"], ["c"])]
    inputs = [helper.make_tensor_value_info("a", kind, ["N", 8])]
    outputs = [helper.make_tensor_value_info("c", product, ["N", 3])]
    weights = [helper.make_tensor("b", kind, [8, 3], [1] * 24)]
    graph = helper.make_graph(nodes, "product", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()


@pytest.mark.parametrize("operator", ["MatMul", "Gemm"])
def test_a_matrix_product_by_hand(operator: str) -> None:
    """One row of 8 by 3 columns: 2 x 8 x 3 operations."""
    assert flops_per_face(matrix_graph(operator)) == 48


def test_products_that_are_not_counted_are_refused() -> None:
    graph = matrix_graph("MatMulInteger", TensorProto.UINT8, TensorProto.INT32)
    with pytest.raises(ValueError, match="expected float convolutions and matrix products, found MatMulInt"):
        flops_per_face(graph)


def test_a_cold_start_ends_when_the_photo_is_written(tmp_path: Path) -> None:
    out = tmp_path / "out.jpg"
    arguments = ["protect", str(PORTRAIT), "-o", str(out), "--bundle", str(default_bundle("public"))]
    took_ms, peak_mib = cold_start([*arguments, "--threads", "1"])
    assert out.exists()
    assert 100 < took_ms < 60_000
    assert peak_mib is None or 50 < peak_mib < 4000
    with pytest.raises(ValueError, match=r"erasablemask protect .* failed: .*exists"):
        cold_start(arguments)


def test_the_command_writes_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo, "SETTLE_S", 0.0)
    monkeypatch.setattr(networks, "SETTLE_S", 0.0)
    options = ["--picture", str(PORTRAIT), "--backend", "ort-cpu", "--backend", "ort-cuda"]
    options += ["--threads", "1", "--rounds", "3", "--cold-runs", "0", "--batch", "1", "--batch", "2"]
    options += ["--sweep-rounds", "1", "--out", str(tmp_path / "photo.json")]
    run = CliRunner().invoke(photo.command, options)
    assert run.exit_code == 0, run.output
    result = read_result(tmp_path / "photo.json")
    assert result["pictures"] == {"portrait": {"width_px": 512, "height_px": 512, "faces": 1}}
    assert [(row["backend"], row["verb"]) for row in result["photos"]] == [
        ("ort-cpu", "protect"),
        ("ort-cpu", "erase"),
    ]
    assert "CUDAExecutionProvider" in result["missing"]["ort-cuda"]
    for row in result["photos"]:
        assert row["total_ms"]["calls"] == 3
        assert all(row["stages_ms"][stage]["median"] > 0 for stage in STAGES)
    for network in result["networks"].values():
        assert [row["batch"] for row in network["programs"]] == [1, 2]
        floor_ms = 1e3 * network["flops_per_face"] / max(result["matrix_rate_flops"].values())
        assert network["floor_ms"] == pytest.approx(floor_ms, rel=1e-3)
        for row in network["programs"]:
            assert row["times_floor"] == pytest.approx(row["ms_per_face"] / floor_ms, rel=1e-2)
    assert "ort-cuda" in run.output


def test_an_anonymisers_bundle_is_timed_by_its_own_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no authority; what it may not be computed in is missing, and float32's rate is its floor."""
    monkeypatch.setattr(photo, "SETTLE_S", 0.0)
    monkeypatch.setattr(networks, "SETTLE_S", 0.0)
    anonymiser_run(tmp_path / "run").train(Silent())
    build_anonymiser(AnonymiseRequest(run=tmp_path / "run", out=tmp_path / "bundle"))
    options = ["--bundle", str(tmp_path / "bundle"), "--picture", str(PORTRAIT), "--backend", "ort-cpu"]
    options += ["--backend", "openvino-bf16", "--threads", "1", "--rounds", "3", "--cold-runs", "1"]
    options += ["--batch", "1", "--sweep-rounds", "1", "--out", str(tmp_path / "photo.json")]
    run = CliRunner().invoke(photo.command, options)
    assert run.exit_code == 0, run.output
    result = read_result(tmp_path / "photo.json")
    assert [(row["backend"], row["verb"]) for row in result["photos"]] == [("ort-cpu", "anonymise")]
    assert [(row["backend"], row["verb"]) for row in result["cold"]] == [("ort-cpu", "anonymise")]
    assert list(result["bundle"]["sha256"]) == list(result["networks"]) == ["anonymise"]
    assert "less than float32 moves the anonymiser's steps" in result["missing"]["openvino-bf16"]
    (network,) = result["networks"].values()
    assert network["flops_per_face"] > 0
    floor_ms = 1e3 * network["flops_per_face"] / result["matrix_rate_flops"]["fp32"]
    assert network["floor_ms"] == pytest.approx(floor_ms, rel=1e-2, abs=1e-5)


def test_pictures_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected pictures of different names, found .*portrait"):
        photo.by_stem([PORTRAIT, tmp_path / "portrait.png"])


def test_no_backend_at_all_is_an_error(tmp_path: Path) -> None:
    options = ["--picture", str(PORTRAIT), "--backend", "nothing", "--out", str(tmp_path / "photo.json")]
    run = CliRunner().invoke(photo.command, options)
    assert run.exit_code == 1
    assert "no backend works here: unknown backend 'nothing'" in run.output
