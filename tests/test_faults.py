"""What breaks, through the commands: a clear error, exit code 1, and nothing half-written."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click import Command
from click.testing import CliRunner, Result
from torch import nn

from export import parts
from export.build import main as build
from export.repository import main as repository
from export.wrappers import ProtectExport
from runtime import shipped
from runtime.authority import Secret, read_key_file, unseal_model
from runtime.cli import main as erasablemask
from runtime.manifest import MANIFEST_NAME, Bundle, open_bundle

from .conftest import PORTRAIT, MakeBundle, protect_bytes
from .tiny_run import save_run

ROOT = Path(__file__).parents[1]
NO_SUCH_OPERATOR = onnx.load_from_string(protect_bytes())
NO_SUCH_OPERATOR.graph.node[3].op_type = "Addition"
# A weight in float16, read by nothing.
IN_HALF = onnx.load_from_string(protect_bytes())
IN_HALF.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((16, 16), np.float16), "half"))
NO_SUCH_OPERATOR_IN_HALF = onnx.load_from_string(IN_HALF.SerializeToString())
NO_SUCH_OPERATOR_IN_HALF.graph.node[3].op_type = "Addition"
BROKEN = {"unknown operator": NO_SUCH_OPERATOR.SerializeToString(), "cut": protect_bytes()[:-100]}


def refused(command: Command, *arguments: object, folder: Path) -> str:
    """What a command says that must fail and leave every file under ``folder`` as it was."""
    before = files(folder)
    result: Result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert files(folder) == before
    return result.stderr


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("run"))


# Networks that are none.


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("ort-cpu", "Error: ONNX Runtime cannot load the network: "),
        ("openvino-fp32", "Error: OpenVINO cannot load the network: "),
    ],
)
@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_network_protects_nothing(
    fault: str, backend: str, message: str, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    """Its hash is right: the bundle was made so."""
    if backend.startswith("openvino"):
        pytest.importorskip("openvino")
    bundle = make_bundle(models={"protect": BROKEN[fault]}).folder
    command = ("protect", PORTRAIT, "-o", tmp_path / "out.jpg", "--bundle", bundle, "--backend", backend)
    said = refused(erasablemask, *command, folder=tmp_path)
    assert message in said
    if fault == "unknown operator":
        assert "Addition" in said


@pytest.mark.parametrize(
    ("precision", "fault", "message"),
    [
        ("fp32", "unknown operator", "TensorRT cannot parse the ONNX file: node 3 (Addition ''): "),
        ("fp32", "cut", "its file holds no ONNX: Error parsing message"),
        ("fp32", "in half", "asked for fp32, but it was not delivered for: half; name the precision"),
        ("fp16", "unknown operator", "asked for fp16, but no weight has 256 elements or more"),
        ("fp16", "unknown operator in half", "the graph is not valid ONNX: No Op registered for Addition"),
        ("fp16", "cut", "its file holds no ONNX: Error parsing message"),
    ],
)
def test_a_broken_network_gets_no_plan(
    precision: str, fault: str, message: str, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed (extra dev)")
    in_half = {"in half": IN_HALF, "unknown operator in half": NO_SUCH_OPERATOR_IN_HALF}
    network = in_half[fault].SerializeToString() if fault in in_half else BROKEN[fault]
    bundle = make_bundle(models={"protect": network}, precision=precision).folder
    (tmp_path / "both").mkdir()
    bundle.rename(tmp_path / "both" / "public")
    command = ("--bundle", tmp_path / "both", "--out", tmp_path / "out", "--tensorrt", "tensorrt_rtx")
    said = refused(repository, *command, folder=tmp_path)
    assert f"Error: no plan of 'protect': {message}" in said
    assert said.endswith("Nothing was written.\n")


class NoSuchTranslation(nn.Module):
    """ONNX has no eigenvalues."""

    def forward(
        self, faces: torch.Tensor, attributes: torch.Tensor, strength: torch.Tensor, injection: torch.Tensor
    ) -> torch.Tensor:
        return torch.linalg.eigvals(faces[..., 0].float()).real


def test_a_network_that_onnx_has_no_operator_for_is_not_exported(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold = parts.fold_batch_norms

    def replace(network: nn.Module) -> nn.Module:
        return NoSuchTranslation().eval() if isinstance(network, ProtectExport) else fold(network)

    monkeypatch.setattr(parts, "fold_batch_norms", replace)
    said = refused(build, "--run", run, "--out", tmp_path / "out", "--demo", folder=tmp_path)
    assert "NoSuchTranslation cannot be translated to ONNX: No ONNX function found" in said
    assert "linalg_eig" in said
    assert said.endswith("Nothing was written.\n")


def test_a_damaged_checkpoint_is_not_exported(run: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(run, tmp_path / "run") / "checkpoint.pt"
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    said = refused(build, "--run", damaged.parent, "--out", tmp_path / "out", "--demo", folder=tmp_path)
    assert f"Error: {damaged} cannot be read: " in said
    assert said.endswith("Nothing was written.\n")


# A manifest edited by hand, in each command that reads one.


def edited(bundle: Bundle, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle.folder / MANIFEST_NAME
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another version": (lambda raw: raw.update(version=2), "manifest.json has version 2, this program reads"),
    "another format": (lambda raw: raw.pop("format"), "expected manifest.json in the format erasablemask-b"),
    "no terms": (lambda raw: raw.pop("terms"), "malformed field: .*'terms'"),
    "one more field": (lambda raw: raw.update(colour="red"), "malformed field: .*'colour'"),
    "a size in words": (lambda raw: raw.update(image_size="64"), "image_size must be a whole number"),
    "a precision that is none": (
        lambda raw: raw.update(precision="fp99"),
        "precision must be one of fp32, fp16, fp16-mixed, bf16-mixed, int8, int8-gpu",
    ),
    "a path that leads out": (
        lambda raw: raw["models"]["protect"].update(path="../protect.onnx"),
        r"models\['protect'\]\.path must be a plain file name",
    ),
    "another hash": (
        lambda raw: raw["models"]["protect"].update(sha256="0" * 64),
        r"protect\.onnx was changed or damaged: expected SHA-256 0000",
    ),
    "another file": (
        lambda raw: raw["models"]["protect"].update(path="pnet.onnx"),
        r"pnet\.onnx was changed or damaged",
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_manifest_is_refused_by_every_command(
    edit: str, public_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, message = EDITS[edit]
    edited(public_bundle, change)
    folder = tmp_path / "both" / "public"
    folder.parent.mkdir()
    public_bundle.folder.rename(folder)
    monkeypatch.setattr(shipped, "default_bundle", lambda role: folder)
    out = tmp_path / "out"
    for command, arguments in (
        (erasablemask, ("inspect", folder)),
        (erasablemask, ("protect", PORTRAIT, "-o", out.with_suffix(".jpg"), "--bundle", folder)),
        (repository, ("--bundle", folder.parent, "--out", out)),
        (build, ("--out", out)),
    ):
        assert re.search(message, refused(command, *arguments, folder=tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 96}, r"the network failed on ort-cpu: .*Got invalid dimensions for input: faces"),
        ({"attributes": ["Bangs", "Smiling"]}, r"expected probabilities \(1, 2\) .*found \(1, 3\)"),
    ],
)
def test_a_manifest_that_is_right_in_itself_but_of_other_networks_is_found_out(
    change: dict[str, Any], message: str, public_bundle: Bundle, tmp_path: Path
) -> None:
    edited(public_bundle, lambda raw: raw.update(change))
    command = ("protect", PORTRAIT, "-o", tmp_path / "out.jpg", "--bundle", public_bundle.folder)
    assert re.search(message, refused(erasablemask, *command, folder=tmp_path), re.DOTALL)


# A full disk.


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both bundles of the small run, 2 MiB."""
    out = tmp_path_factory.mktemp("bundles") / "tiny"
    result = CliRunner().invoke(build, ["--run", str(run), "--out", str(out), "--fp16", "--demo"])
    assert result.exit_code == 0, result.output
    return out


def test_a_full_disk_leaves_nothing(run: Path, bundle: Path) -> None:
    """On a real one, at whichever file it becomes full; the last size of a command's is enough for it."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], capture_output=True).returncode:
        pytest.skip("needs a mount namespace of one's own: unshare --map-root-user --mount")
    protect = ["protect", str(PORTRAIT), "-o", "{disk}/a.png", "--bundle", str(bundle / "public")]
    serve = ["--bundle", str(bundle), "--out", "{disk}/out"]
    export = ["--run", str(run), "--out", "{disk}/out", "--fp16", "--new-key", "{disk}/new.key"]
    cases = [
        *({"kib": kib, "module": "runtime.cli", "command": protect} for kib in (4, 64, 1024)),
        *({"kib": kib, "module": "export.repository", "command": serve} for kib in (4, 16, 32, 48, 512)),
        {"kib": 1500, "module": "export.build", "command": export},
    ]
    if find_spec("tensorrt_rtx") is not None:
        plans = [*serve, "--tensorrt", "tensorrt_rtx"]
        cases += [{"kib": kib, "module": "export.repository", "command": plans} for kib in (80, 1000)]
    done = subprocess.run(
        [unshare, "-rm", sys.executable, "-m", "tests.full_disk", *map(json.dumps, cases)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for case, result in zip(cases, json.loads(done.stdout), strict=True):
        if case["kib"] in (512, 1024):
            assert result["exit_code"] == 0, result["output"]
            assert result["files"] != []
            continue
        assert (result["exit_code"], result["crash"]) == (1, "None"), result
        assert re.search(r"Error: cannot write .*: No space left on device\n", result["output"])
        assert result["files"] == [], case


# Ctrl-C.


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "step", ["export.bundle.write_repositories", "export.bundle.replace_folder", "os.fdopen"]
)
def test_an_interrupted_export_leaves_all_as_it_was(
    step: str, overwrite: bool, run: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No bundle and no key, nor what was written under other names; the last is amid the key's writing."""
    if overwrite:
        shutil.copytree(bundle, tmp_path / "out")
    command = ["--run", run, "--out", tmp_path / "out", "--new-key", tmp_path / "new.key", "--overwrite"]
    monkeypatch.setattr(step, interrupted)
    assert refused(build, *command, folder=tmp_path).endswith("Aborted!\n")


def test_a_key_stays_once_its_bundle_is_in_place(
    run: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted while the old bundle is removed."""
    out, key = tmp_path / "out", tmp_path / "new.key"
    shutil.copytree(bundle, out)
    remove = shutil.rmtree

    def removing(path: Path, **options: Any) -> None:
        if path.suffix == ".old":
            raise KeyboardInterrupt
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", removing)
    command = ["--run", run, "--out", out, "--new-key", key, "--overwrite"]
    result = CliRunner().invoke(build, list(map(str, command)))
    assert result.exit_code == 1
    assert unseal_model(open_bundle(out / "authority"), Secret.from_key(read_key_file(key)))
