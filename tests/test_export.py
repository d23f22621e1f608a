"""Export: torch = ONNX Runtime, and two bundles that the runtime opens, whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from torch import nn

from export import onnx_graph, parts
from export.annotate import main as annotate_main
from export.build import main as build_main
from export.errors import ExportError
from export.faces import inputs_of, synthetic_faces
from export.onnx_graph import check_any_batch, to_onnx
from export.parity import in_torch
from export.run import Part, load_run
from export.wrappers import RestoreExport, to_network, to_picture
from runtime.authority import Secret, generate_key, load_secret, unseal_model, write_key_file
from runtime.errors import BundleError, SecretError
from runtime.geometry import CROP_TEMPLATE
from runtime.manifest import TensorSpec, open_bundle
from tests.tiny_run import NAMES, SIZE, TARGET, save_run
from training.checkpoint import CheckpointError

# uint8 levels between torch and ONNX Runtime in float32: a value on the edge of rounding may tip over.
LEVELS = 1


def build(run: Path, out: Path, *options: object) -> Result:
    return CliRunner().invoke(build_main, ["--run", str(run), "--out", str(out), *map(str, options)])


def outputs(model: bytes, inputs: dict[str, NDArray]) -> NDArray:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "authority.key"
    write_key_file(path, generate_key())
    return path


@pytest.fixture(scope="module")
def bundle(run_folder: Path, key_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 bundle; tests do not change it."""
    out = tmp_path_factory.mktemp("bundles") / "fp32"
    result = build(run_folder, out, "--key", key_file)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="module")
def half_bundle(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in float16, for demonstrations, with a target's embedding."""
    folder = tmp_path_factory.mktemp("bundles")
    (folder / "target.json").write_text(json.dumps({"sface": [0.6, 0.8]}))
    options = ("--fp16", "--demo", "--name", "shown", "--target-embedding", folder / "target.json")
    result = build(run_folder, folder / "fp16", *options)
    assert result.exit_code == 0, result.output
    return folder / "fp16"


def part_of(run_folder: Path, name: str) -> Part:
    return next(part for part in load_run(run_folder).parts if part.name == name)


# From picture to network and back.


def test_every_level_survives_the_way_in_and_out() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(-1, -1, -1, 3)
    assert torch.equal(to_picture(to_network(levels)), levels)


def test_rounding_and_clamping() -> None:
    """127.5 (x + 1): x = 0 lies halfway and goes to the even 128; a level's 0.4 is cut; beyond is clamped."""
    values = torch.tensor([0.0, 100.4 / 127.5 - 1, 100.6 / 127.5 - 1, -1.0, 1.0, -3.0, 3.0])
    picture = to_picture(values.reshape(1, 1, 1, 7).expand(-1, 3, -1, -1))
    assert picture.shape == (1, 1, 7, 3)
    assert picture[0, 0, :, 0].tolist() == [128, 100, 101, 0, 255, 0, 255]


# The graphs.


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("name", ["protect", "attributes"])
def test_onnx_runtime_gives_what_torch_gives(run_folder: Path, bundle: Path, name: str, batch: int) -> None:
    part = part_of(run_folder, name)
    inputs = inputs_of(part.name, synthetic_faces(batch, SIZE, seed=batch), len(NAMES))
    (expected,) = in_torch(part.module)(inputs)
    found = outputs(open_bundle(bundle / "public").read(name), inputs)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    tolerance = LEVELS if expected.dtype == np.uint8 else 1e-5
    assert np.abs(found.astype(float) - expected).max() <= tolerance
    assert expected.std() > 0


def test_rows_of_a_batch_do_not_touch_each_other(bundle: Path, run_folder: Path) -> None:
    model = open_bundle(bundle / "public").read("protect")
    inputs = inputs_of("protect", synthetic_faces(5, SIZE), len(NAMES))
    order = np.array([3, 0, 4, 2, 1])
    moved = outputs(model, {name: values[order] for name, values in inputs.items()})
    assert np.abs(moved.astype(int) - outputs(model, inputs)[order]).max() <= LEVELS


@pytest.mark.parametrize("knob", ["attributes", "strength", "injection"])
def test_knobs_stay_live(bundle: Path, knob: str) -> None:
    model = open_bundle(bundle / "public").read("protect")
    inputs: dict[str, NDArray] = {
        "faces": synthetic_faces(2, SIZE),
        "attributes": np.zeros((2, len(NAMES)), np.float32),
        "strength": np.full((2, 1), 0.9, np.float32),
        "injection": np.full((2, 1), 0.1, np.float32),
    }
    changed = {**inputs, knob: 1.0 - inputs[knob]}
    assert (outputs(model, inputs) != outputs(model, changed)).mean() > 0.01


def test_a_graph_tells_its_opset_and_terms_and_nothing_of_this_machine(bundle: Path) -> None:
    data = open_bundle(bundle / "public").read("protect")
    model = onnx.load_model_from_string(data)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", onnx_graph.OPSET)]
    properties = {p.key: p.value for p in model.metadata_props}
    assert properties.keys() == {"name", "version", "terms"}
    assert properties["name"] == "tiny/protect"
    assert "CelebA" in properties["terms"]
    assert b"site-packages" not in data
    assert str(Path(__file__).parents[1]).encode() not in data
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)
    assert all(not t.external_data for t in model.graph.initializer)


def test_every_graph_the_detector_too_has_one_opset_and_names_no_file(bundle: Path) -> None:
    public = open_bundle(bundle / "public")
    for name in public.manifest.models:
        data = public.read(name)
        model = onnx.load_model_from_string(data)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", public.manifest.opset)]
        assert b"site-packages" not in data
        assert b".py" not in data


def test_the_head_that_tells_real_from_generated_is_not_exported(bundle: Path) -> None:
    model = onnx.load_model_from_string(open_bundle(bundle / "public").read("attributes"))
    shapes = [tuple(tensor.dims) for tensor in model.graph.initializer]
    assert (8, 16 * 4 * 4) in shapes or (16 * 4 * 4, 8) in shapes
    assert (1, 8) not in shapes
    assert (8, 1) not in shapes


class FixedBatch(nn.Module):
    """Its output has two rows whatever comes in."""

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        return faces.float().mean(0).repeat(2, 1)


def test_a_graph_of_one_batch_only_is_an_error() -> None:
    with pytest.raises(ExportError, match=r"'y' must be of any batch, but its shape is \(2, 3\)"):
        to_onnx(FixedBatch().eval(), {"faces": torch.zeros(4, 3)}, ["y"], metadata={})


def test_an_invalid_graph_is_an_error() -> None:
    node = onnx.helper.make_node("NoSuchOperation", ["x"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["batch"]) for n in "xy"]
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    check_any_batch(model)
    with pytest.raises(ExportError, match="not valid ONNX"):
        onnx_graph.checked(model)


# The bundles.


def test_the_public_bundle_holds_no_restorer(bundle: Path) -> None:
    public = open_bundle(bundle / "public")
    assert files(bundle / "public") == {
        "manifest.json",
        *(f"{name}.onnx" for name in ("protect", "attributes", "pnet", "rnet", "onet")),
    }
    assert public.manifest.role == "public"
    with pytest.raises(BundleError, match="has no network 'restore'"):
        public.read("restore")


def test_the_authority_gets_the_exact_restorer_with_its_key(
    bundle: Path, run_folder: Path, key_file: Path
) -> None:
    authority = open_bundle(bundle / "authority")
    assert files(bundle / "authority") == {
        "manifest.json",
        "restore.onnx.sealed",
        *(f"{name}.onnx" for name in ("pnet", "rnet", "onet")),
    }
    model = unseal_model(authority, load_secret(key_file=key_file))
    onnx.checker.check_model(onnx.load_model_from_string(model), full_check=True)
    part = part_of(run_folder, "restore")
    inputs = inputs_of(part.name, synthetic_faces(3, SIZE), len(NAMES))
    (expected,) = in_torch(part.module)(inputs)
    assert np.abs(outputs(model, inputs).astype(int) - expected).max() <= LEVELS
    # The plain bytes lie nowhere in the bundles: a piece from amid the weights is looked for in every file.
    piece = model[len(model) // 2 : len(model) // 2 + 64]
    assert all(piece not in path.read_bytes() for path in bundle.rglob("*") if path.is_file())


def test_a_wrong_key_opens_nothing(bundle: Path) -> None:
    with pytest.raises(SecretError, match="wrong key"):
        unseal_model(open_bundle(bundle / "authority"), Secret.from_key(generate_key()))


def test_every_file_reads_back_with_its_hash_and_shapes(bundle: Path) -> None:
    for role in ("public", "authority"):
        opened = open_bundle(bundle / role)
        for name, entry in opened.manifest.models.items():
            data = opened.read(name)
            assert entry.sealed == (name == "restore")
            if not entry.sealed:
                session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
                assert [t.name for t in session.get_inputs()] == [spec.name for spec in entry.inputs]
    models = open_bundle(bundle / "public").manifest.models
    faces = TensorSpec(name="faces", dtype="uint8", shape=(-1, SIZE, SIZE, 3))
    assert models["protect"].inputs == (
        faces,
        TensorSpec(name="attributes", dtype="float32", shape=(-1, len(NAMES))),
        TensorSpec(name="strength", dtype="float32", shape=(-1, 1)),
        TensorSpec(name="injection", dtype="float32", shape=(-1, 1)),
    )
    assert models["protect"].outputs == (dataclasses.replace(faces, name="protected"),)
    assert models["attributes"].outputs == (
        TensorSpec(name="probabilities", dtype="float32", shape=(-1, len(NAMES))),
    )
    restore = open_bundle(bundle / "authority").manifest.models["restore"]
    assert restore.inputs == (faces,)
    assert restore.outputs == (dataclasses.replace(faces, name="restored"),)


def test_the_manifest_says_what_was_built(bundle: Path, half_bundle: Path) -> None:
    manifest = open_bundle(bundle / "public").manifest
    assert (manifest.name, manifest.precision, manifest.demo) == ("tiny", "fp32", False)
    assert (manifest.image_size, manifest.max_batch, manifest.opset) == (SIZE, 64, 18)
    assert np.abs(np.array(manifest.crop_template) - CROP_TEMPLATE).max() == 0
    assert manifest.attributes == NAMES
    assert (manifest.strength, manifest.injection) == (0.5, 0.05)
    assert manifest.target == TARGET
    assert "non-commercial" in manifest.terms
    assert manifest.training["commits"] == ["c0ffee"]
    assert len(manifest.training["config_sha256"]) == 64
    assert manifest.measured == {}
    half = open_bundle(half_bundle / "authority").manifest
    assert (half.name, half.precision, half.demo) == ("shown", "fp16", True)
    assert half.training["target_embeddings"] == {"sface": [0.6, 0.8]}


def test_fp16_stores_half_the_bytes_and_keeps_the_output(
    bundle: Path, half_bundle: Path, run_folder: Path
) -> None:
    single, half = (open_bundle(b / "public").read("protect") for b in (bundle, half_bundle))

    def weight_bytes(model: bytes) -> int:
        return sum(len(t.raw_data) for t in onnx.load_model_from_string(model).graph.initializer)

    assert weight_bytes(half) < 0.6 * weight_bytes(single)
    inputs = inputs_of("protect", synthetic_faces(4, SIZE), len(NAMES))
    difference = np.abs(outputs(half, inputs).astype(int) - outputs(single, inputs))
    assert (difference <= 1).mean() >= 0.999


def test_the_demo_key_is_in_the_authority_bundle_and_opens_it(half_bundle: Path) -> None:
    authority = open_bundle(half_bundle / "authority")
    assert unseal_model(authority, load_secret(key_file=authority.folder / "demo.key"))
    assert "demo.key" not in files(half_bundle / "public")


# The command.


def test_a_new_key_is_written_for_its_owner_alone(run_folder: Path, tmp_path: Path) -> None:
    key = tmp_path / "new.key"
    result = build(run_folder, tmp_path / "out", "--new-key", key)
    assert result.exit_code == 0, result.output
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert unseal_model(open_bundle(tmp_path / "out/authority"), load_secret(key_file=key))
    assert files(tmp_path / "out/authority").isdisjoint({"demo.key", "new.key"})
    for row in ("protect", "attributes", "restore", "onet", "synthetic pictures", "in all"):
        assert row in result.output


def test_without_a_key_a_new_one_lies_beside_the_bundles(run_folder: Path, tmp_path: Path) -> None:
    out, key = tmp_path / "bundle", tmp_path / "bundle.key"
    result = CliRunner().invoke(build_main, ["--run", str(run_folder), "--out", f"{out}/"])
    assert result.exit_code == 0, result.output
    assert f"New key: {key}\nIt opens the restorer" in result.stdout
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert unseal_model(open_bundle(out / "authority"), load_secret(key_file=key))

    before = key.read_bytes()
    again = build(run_folder, out, "--overwrite")
    assert again.exit_code == 1
    assert f"{key} exists and is kept; use it with --key" in again.output
    assert key.read_bytes() == before


def test_an_existing_folder_is_kept_without_overwrite(
    run_folder: Path, key_file: Path, bundle: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(bundle, tmp_path / "out")
    (out / "MODEL_CARD.md").write_text("card")
    before = manifest_of(out / "public")
    result = build(run_folder, out, "--key", key_file, "--name", "second")
    assert result.exit_code == 1
    assert "exists and is kept; choose another --out, or add --overwrite" in result.output
    assert manifest_of(out / "public") == before

    result = build(run_folder, out, "--key", key_file, "--name", "second", "--overwrite")
    assert result.exit_code == 0, result.output
    assert manifest_of(out / "public")["name"] == "second"
    assert (out / "MODEL_CARD.md").read_text() == "card"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_overwrite_spares_a_folder_of_something_else(
    run_folder: Path, key_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").write_text("dear")
    result = build(run_folder, tmp_path / "letters", "--key", key_file, "--overwrite")
    assert result.exit_code == 1
    assert "holds no bundles of this command" in result.output
    assert files(tmp_path) == {"letters/letter.txt"}


def test_a_failed_comparison_writes_nothing(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rewrite that moves one bias of one network stops at the gate, and the key is not written either."""
    fold = parts.fold_batch_norms

    def wrong_fold(network: nn.Module) -> nn.Module:
        folded = fold(network)
        if isinstance(network, RestoreExport):
            with torch.no_grad():
                folded.get_parameter("restorer.decoder.layers.2.0.bias").add_(0.1)
        return folded

    monkeypatch.setattr(parts, "fold_batch_norms", wrong_fold)
    result = build(run_folder, tmp_path / "out", "--new-key", tmp_path / "new.key")
    assert result.exit_code == 1
    assert (
        "restore is not the network it was made from, by the bounds of fp32 on 48 faces: largest"
        in result.output
    )
    assert "Nothing was written" in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_leaves_neither_bundle_nor_key(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(Path, "rename", full)
    result = build(run_folder, tmp_path / "out", "--new-key", tmp_path / "new.key")
    assert result.exit_code == 1
    assert "No space left on device" in result.output
    assert list(tmp_path.iterdir()) == []


def test_the_restorer_is_sealed_in_one_way_only(run_folder: Path, key_file: Path, tmp_path: Path) -> None:
    for options in (("--demo", "--new-key", "k"), ("--demo", "--key", key_file)):
        result = build(run_folder, tmp_path / "out", *options)
        assert result.exit_code == 2
        assert "at most one of --key, --new-key and --demo" in result.output


def test_a_new_key_may_not_lie_in_the_bundle_nor_replace_a_key(
    run_folder: Path, key_file: Path, tmp_path: Path
) -> None:
    inside = build(run_folder, tmp_path / "out", "--new-key", tmp_path / "out" / "public" / "k")
    assert inside.exit_code == 1
    assert "--new-key must lie outside of --out" in inside.output
    existing = build(run_folder, tmp_path / "out", "--new-key", key_file)
    assert existing.exit_code == 1
    assert "exists and is kept; use it with --key" in existing.output


@pytest.mark.parametrize("field", ["attributes", "target"])
def test_a_run_that_does_not_describe_itself_is_refused(tmp_path: Path, field: str) -> None:
    about = {"attributes": list(NAMES), "target": TARGET, field: None}
    with pytest.raises(CheckpointError, match=f"does not say its {field}"):
        load_run(save_run(tmp_path, about))


def test_an_unfinished_run_is_refused_unless_it_is_asked_for(key_file: Path, tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", {"attributes": list(NAMES), "target": TARGET, "stage": "attack"})
    refused = build(run, tmp_path / "out", "--key", key_file)
    assert refused.exit_code == 1
    assert "found it in the stage 'attack'; let it train on" in refused.output
    assert "--unfinished" in refused.output
    assert not (tmp_path / "out").exists()

    taken = build(run, tmp_path / "out", "--key", key_file, "--unfinished")
    assert taken.exit_code == 0, taken.output
    assert open_bundle(tmp_path / "out" / "public").manifest.training["stage"] == "attack"


def test_a_run_with_other_attributes_than_its_networks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="names 1 attributes, its networks know 4"):
        load_run(save_run(tmp_path, {"attributes": ["Bald"], "target": TARGET}))


def test_a_folder_without_a_run_is_a_clear_error(tmp_path: Path) -> None:
    result = build(tmp_path, tmp_path / "out", "--demo")
    assert result.exit_code == 1
    assert "no checkpoint at" in result.output


@pytest.mark.parametrize(
    "text", ["[1, 2]", "{}", '{"sface": 3}', '{"sface": [0, 0]}', '{"sface": [1, NaN]}', "?"]
)
def test_target_embeddings_are_checked(run_folder: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "target.json").write_text(text)
    result = build(run_folder, tmp_path / "out", "--demo", "--target-embedding", tmp_path / "target.json")
    assert result.exit_code == 1
    assert "target.json" in result.output
    assert not (tmp_path / "out").exists()


def test_help_is_instant_and_ends_in_an_example() -> None:
    code = "import export.build, export.annotate, sys; print('torch' in sys.modules, 'onnx' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["False", "False"]
    text = CliRunner().invoke(build_main, ["--help"]).output
    assert "python -m export.build --run runs/compact --out bundle --fp16" in text


# Measured figures.


def test_annotate_replaces_the_measured_figures_only(bundle: Path, tmp_path: Path) -> None:
    out = shutil.copytree(bundle, tmp_path / "out")
    (tmp_path / "results.json").write_text(json.dumps({"asr": {"sface": 0.5}}))
    arguments = ["--bundle", str(out / "public"), "--bundle", str(out / "authority")]
    result = CliRunner().invoke(annotate_main, [*arguments, "--measured", str(tmp_path / "results.json")])
    assert result.exit_code == 0, result.output
    for role in ("public", "authority"):
        before, after = manifest_of(bundle / role), manifest_of(out / role)
        assert after.pop("measured") == {"asr": {"sface": 0.5}}
        assert before.pop("measured") == {}
        assert after == before
    assert files(out) == files(bundle)


def test_annotate_refuses_a_bundle_that_was_changed(bundle: Path, tmp_path: Path) -> None:
    out = shutil.copytree(bundle, tmp_path / "out")
    with open(out / "public" / "protect.onnx", "ab") as file:
        file.write(b"x")
    (tmp_path / "results.json").write_text("{}")
    arguments = ["--bundle", str(out / "public"), "--measured", str(tmp_path / "results.json")]
    result = CliRunner().invoke(annotate_main, arguments)
    assert result.exit_code == 1
    assert "was changed or damaged" in result.output
