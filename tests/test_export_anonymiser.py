"""``export.build --system anonymiser``: one bundle, the graph equal to the trained network, live inputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from torch import nn

from export import parts
from export.build import main as build_main
from export.faces import anonymise_inputs, synthetic_faces
from export.parity import in_torch
from export.parity_report import read_report
from export.wrappers import AnonymiseExport
from runtime.backends import create_backend
from runtime.manifest import TensorSpec, open_bundle
from training.checkpoint import load_anonymiser

from .tiny_anonymiser import ANONYMISER, anonymiser_run
from .tiny_run import SIZE
from .tiny_training import Silent

CELLS = ANONYMISER.network.cells


def build(run: Path, out: Path, *options: object) -> Result:
    arguments = ["--system", "anonymiser", "--run", run, "--out", out, *options]
    return CliRunner().invoke(build_main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    anonymiser_run(folder).train(Silent())
    return folder


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "out"
    result = build(run, out)
    assert result.exit_code == 0, (result.output, result.exception)
    for word in ("anonymise", "onet", "synthetic pictures", "that gate knows the mask alone", "in all"):
        assert word in " ".join(result.output.split()), word
    return out


def outputs(model: bytes, inputs: dict[str, NDArray]) -> NDArray:
    with create_backend("ort-cpu", model, threads=1) as backend:
        return backend.run(inputs)["anonymised"]


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_there_is_one_bundle_and_nothing_of_an_authority(bundle: Path) -> None:
    networks = ("anonymise", "pnet", "rnet", "onet")
    assert files(bundle) == {
        "parity.json",
        "public/manifest.json",
        *(f"public/{name}.onnx" for name in networks),
    }


def test_the_manifest_says_what_was_built(bundle: Path) -> None:
    opened = open_bundle(bundle / "public")
    manifest = opened.manifest
    assert (manifest.system, manifest.role, manifest.name, manifest.strength) == (
        "anonymiser",
        "public",
        "tiny",
        0.8,
    )
    assert (manifest.attributes, manifest.injection, manifest.target) == ((), 0.0, "")
    assert (manifest.training["steps"], manifest.training["stochastic"]) == (4, True)
    assert len(manifest.training["config_sha256"]) == 64
    faces = TensorSpec(name="faces", dtype="uint8", shape=(-1, SIZE, SIZE, 3))
    assert manifest.models["anonymise"].inputs == (
        faces,
        TensorSpec(name="grain", dtype="float32", shape=(-1, 1, SIZE, SIZE)),
        TensorSpec(name="shade", dtype="float32", shape=(-1, 3, CELLS, CELLS)),
        TensorSpec(name="strength", dtype="float32", shape=(-1, 1)),
    )
    assert manifest.models["anonymise"].outputs == (
        TensorSpec(name="anonymised", dtype="uint8", shape=(-1, SIZE, SIZE, 3)),
    )
    report = read_report(opened)
    assert report.comparisons[0].networks[0].network == "anonymise"
    assert "moves the front-end's steps" in report.missing["openvino-bf16"]


@pytest.mark.parametrize("batch", [1, 5])
def test_the_graph_is_the_trained_network(run: Path, bundle: Path, batch: int) -> None:
    _, networks, _ = load_anonymiser(run)
    inputs = anonymise_inputs(synthetic_faces(batch, SIZE, seed=batch), CELLS)
    [expected] = in_torch(AnonymiseExport(networks.anonymiser).eval())(inputs)
    found = outputs(open_bundle(bundle / "public").read("anonymise"), inputs)
    assert (found.dtype, found.shape) == (np.uint8, (batch, SIZE, SIZE, 3))
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_the_graph_draws_nothing_and_its_noise_and_strength_are_live(bundle: Path) -> None:
    data = open_bundle(bundle / "public").read("anonymise")
    graph = onnx.load_model_from_string(data).graph
    assert not [node.op_type for node in graph.node if "Random" in node.op_type]
    assert not any(node.op_type == "BatchNormalization" for node in graph.node)
    inputs = anonymise_inputs(synthetic_faces(2, SIZE), CELLS)
    plain = outputs(data, inputs)
    np.testing.assert_array_equal(outputs(data, inputs), plain)
    for name in ("faces", "grain", "shade", "strength"):
        changed = {**inputs, name: np.ascontiguousarray(inputs[name][::-1])}
        assert (outputs(data, changed) != plain).any(), name


def test_the_wrapper_converts_and_broadcasts() -> None:
    """128 is 128 / 127.5 - 1 inside; -1 and 1 come out as 0 and 255; the strength has a row a face."""

    class Same(nn.Module):
        def forward(self, face, grain, shade, strength):
            assert face.dtype == torch.float32
            assert strength.shape == (2, 1, 1, 1)
            torch.testing.assert_close(face, torch.full((2, 3, 4, 4), 128 / 127.5 - 1))
            return torch.cat([-torch.ones(1, 3, 4, 4), torch.ones(1, 3, 4, 4)])

    faces = torch.full((2, 4, 4, 3), 128, dtype=torch.uint8)
    found = AnonymiseExport(Same())(faces, torch.zeros(2, 1, 4, 4), torch.zeros(2, 3, 2, 2), torch.ones(2, 1))
    assert found.dtype == torch.uint8
    assert found.flatten(1).unique(dim=1).tolist() == [[0], [255]]


def test_fp16_stores_half_the_bytes(run: Path, bundle: Path, tmp_path: Path) -> None:
    result = build(run, tmp_path / "half", "--fp16", "--name", "half")
    assert result.exit_code == 0, (result.output, result.exception)
    half = open_bundle(tmp_path / "half" / "public")
    assert (half.manifest.name, half.manifest.precision) == ("half", "fp16")
    single = open_bundle(bundle / "public").read("anonymise")
    assert len(half.read("anonymise")) < 0.7 * len(single)


def test_what_does_not_fit_is_refused(run: Path, bundle: Path, run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cases = [
        (build(run, out, "--precision", "int8"), 1, "is exported in fp32 or fp16, found int8"),
        (build(run, out, "--demo"), 2, "--demo belongs to --system mask"),
        (build(run_folder, out), 1, "expected a run of the anonymiser"),
        (build(run, bundle), 1, "exists and is kept"),
        (CliRunner().invoke(build_main, ["--system", "anonymiser"]), 2, "no anonymiser is shipped"),
        (
            CliRunner().invoke(build_main, ["--run", str(run), "--out", str(out), "--demo"]),
            1,
            "expected a run of the mask",
        ),
    ]
    for result, code, message in cases:
        assert (result.exit_code, message in result.output) == (code, True), result.output
    assert not out.exists()


def test_an_unfinished_run_is_refused_unless_it_is_asked_for(tmp_path: Path) -> None:
    anonymiser_run(tmp_path / "run").train(Silent(), stop_after_steps=1)
    refused = build(tmp_path / "run", tmp_path / "out")
    assert refused.exit_code == 1
    assert "found it in the stage 'anonymise'" in refused.output
    taken = build(tmp_path / "run", tmp_path / "out", "--unfinished")
    assert taken.exit_code == 0, taken.output


def test_only_an_anonymisers_bundle_is_overwritten(run: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "public").mkdir(parents=True)
    raw = json.loads((bundle / "public" / "manifest.json").read_text())
    (out / "public" / "manifest.json").write_text(json.dumps({**raw, "system": "mask"}))
    refused = build(run, out, "--overwrite")
    assert "holds a bundle of the mask; choose another --out" in refused.output
    (out / "public" / "manifest.json").write_text(json.dumps(raw))
    (out / "CARD.md").write_text("card")
    done = build(run, out, "--overwrite")
    assert done.exit_code == 0, done.output
    assert {"CARD.md", "public/anonymise.onnx"} <= files(out)


def test_a_failed_comparison_writes_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold = parts.fold_batch_norms

    def wrong_fold(network: nn.Module) -> nn.Module:
        folded = fold(network)
        with torch.no_grad():
            folded.get_parameter("anonymiser.decoder.layers.2.0.bias").add_(0.1)
        return folded

    monkeypatch.setattr(parts, "fold_batch_norms", wrong_fold)
    result = build(run, tmp_path / "out")
    assert result.exit_code == 1
    assert "anonymise is not the network it was made from" in result.output
    assert list(tmp_path.iterdir()) == []
