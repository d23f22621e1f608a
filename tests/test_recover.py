"""A run recovered from its bundles: the same networks, whole or not at all."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from export import recover
from export.build import main as build_main
from export.faces import inputs_of, synthetic_faces
from export.parity import in_torch, outputs_of
from export.run import load_run
from runtime.authority import generate_key, load_secret, unseal_model, write_key_file
from runtime.manifest import open_bundle
from tests.tiny_run import NAMES, SIZE, TARGET, TINY, save_run
from training.checkpoint import CHECKPOINT_NAME, load_checkpoint, load_networks

# uint8 levels: weights stored in float16, and float32 folded and unfolded.
LEVELS = 1


@pytest.fixture(autouse=True)
def _tiny_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recover, "PRESETS", {"tiny": TINY})


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "authority.key"
    write_key_file(path, generate_key())
    return path


def export(run: Path, out: Path, key: Path, *options: str) -> Path:
    arguments = ["--run", str(run), "--out", str(out), "--key", str(key), *options]
    done = CliRunner().invoke(build_main, arguments)
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def bundle(run_folder: Path, key: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the tiny run, in float16; tests do not change it."""
    return export(run_folder, tmp_path_factory.mktemp("bundles") / "fp16", key, "--fp16")


def recovered(bundle: Path, key: Path, out: Path, *options: str) -> Result:
    arguments = ["--bundle", str(bundle), "--key-file", str(key), "--out", str(out), *options]
    return CliRunner().invoke(recover.main, arguments)


def test_the_networks_are_those_that_were_exported(
    run_folder: Path, bundle: Path, key: Path, tmp_path: Path
) -> None:
    done = recovered(bundle, key, tmp_path / "run")
    assert done.exit_code == 0, done.output
    faces = synthetic_faces(4, SIZE)
    for ours, theirs in zip(load_run(run_folder).parts, load_run(tmp_path / "run").parts, strict=True):
        inputs = inputs_of(ours.name, faces, len(NAMES))
        (expected,), (found,) = (outputs_of(in_torch(part.module), inputs) for part in (ours, theirs))
        if expected.dtype == np.uint8:
            assert np.abs(expected.astype(int) - found.astype(int)).max() <= LEVELS
        else:
            np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_recovered_run_is_exported_again_with_the_same_weights(
    bundle: Path, key: Path, tmp_path: Path
) -> None:
    """The float16 weights come back to the bit: a batch norm with a scale of 1 does not touch them. Biases
    stay in float32 and are added to."""
    assert recovered(bundle, key, tmp_path / "run").exit_code == 0
    again = export(tmp_path / "run", tmp_path / "again", key, "--fp16")
    secret = load_secret(key)
    for name in ("protect", "attributes", "restore"):
        before, after = (
            recover.weights_of(recover.onnx.load_from_string(data))
            for data in (
                unseal_model(open_bundle(folder / "authority"), secret)
                if name == "restore"
                else open_bundle(folder / "public").read(name)
                for folder in (bundle, again)
            )
        )
        assert before.keys() == after.keys()
        for weight, value in before.items():
            exact = {"rtol": 0, "atol": 0} if value.dtype == torch.float16 else {"rtol": 1e-6, "atol": 1e-6}
            torch.testing.assert_close(after[weight], value, **exact)


def test_it_says_what_it_was_recovered_from(bundle: Path, key: Path, tmp_path: Path) -> None:
    done = recovered(bundle, key, tmp_path / "run")
    assert CHECKPOINT_NAME in done.output
    config, *_, about = load_networks(tmp_path / "run")
    assert config.network == TINY.network
    assert (about["target"], about["stage"], about["attributes"]) == (TARGET, "done", list(NAMES))
    models = open_bundle(bundle / "public").manifest.models
    assert about["recovered"]["protect"] == models["protect"].sha256
    assert set(about["recovered"]) == {"protect", "attributes", "restore"}
    assert "networks" not in load_checkpoint(tmp_path / "run"), "it cannot be resumed, and says so"
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700


def test_a_wrong_key_recovers_nothing(bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.key"
    write_key_file(other, generate_key())
    done = recovered(bundle, other, tmp_path / "run")
    assert done.exit_code == 1
    assert "wrong key" in done.output
    assert not (tmp_path / "run").exists()


def test_no_checkpoint_is_overwritten(bundle: Path, key: Path, tmp_path: Path) -> None:
    assert recovered(bundle, key, tmp_path / "run").exit_code == 0
    before = (tmp_path / "run" / CHECKPOINT_NAME).read_bytes()
    done = recovered(bundle, key, tmp_path / "run")
    assert done.exit_code == 1
    assert "exists already; give a new folder" in done.output
    assert (tmp_path / "run" / CHECKPOINT_NAME).read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 8}, "expected generator.encoder.layers"),
        ({"depth": 2}, r"expected generator\.\S+ of shape"),
        ({"image_size": 64}, "expected faces of 64 px as in tiny, the bundle's have 32"),
    ],
)
def test_networks_of_another_size_are_refused(
    bundle: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict, message: str
) -> None:
    other = dataclasses.replace(TINY, network=dataclasses.replace(TINY.network, **change))
    monkeypatch.setattr(recover, "PRESETS", {"tiny": other})
    done = recovered(bundle, key, tmp_path / "run")
    assert done.exit_code == 1
    assert re.search(message, done.output)
    assert not (tmp_path / "run").exists()


def test_an_unknown_preset_names_those_there_are(bundle: Path, key: Path, tmp_path: Path) -> None:
    done = recovered(bundle, key, tmp_path / "run", "--preset", "huge")
    assert done.exit_code == 1
    assert "expected --preset to be one of tiny, found 'huge'" in done.output


def test_a_precision_that_keeps_no_such_weights_is_refused(
    run_folder: Path, key: Path, tmp_path: Path
) -> None:
    mixed = export(run_folder, tmp_path / "mixed", key, "--precision", "bf16-mixed")
    done = recovered(mixed, key, tmp_path / "run")
    assert done.exit_code == 1
    assert "expected a bundle in fp32 or fp16, found bf16-mixed" in done.output
    assert not (tmp_path / "run").exists()


def test_bundles_of_two_runs_are_refused(bundle: Path, key: Path, tmp_path: Path) -> None:
    told = {"attributes": list(NAMES), "target": TARGET, "commits": ["beef"], "steps": 1, "stage": "done"}
    other = export(save_run(tmp_path / "other", told), tmp_path / "others", key, "--fp16")
    mixed = tmp_path / "mixed"
    shutil.copytree(bundle / "public", mixed / "public")
    shutil.copytree(other / "authority", mixed / "authority")
    done = recovered(mixed, key, tmp_path / "run")
    assert done.exit_code == 1
    assert "expected two bundles of one run, found two of different ones" in done.output
