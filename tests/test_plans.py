"""``protect`` with TensorRT plans, on a GPU made of Python that computes what the bundle's networks do."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from runtime.backends import create_backend, with_plans
from runtime.cli import main
from runtime.engine_sidecar import BatchProfile, sidecar_path
from runtime.errors import BackendError
from runtime.manifest import Bundle, sha256_of

from .conftest import ATTRIBUTES, CROP_PX, PORTRAIT
from .sidecars import sidecar
from .tensorrt_fakes import FakeGpu, FakeNetwork
from .triton_fakes import model, tensor

FACES = tensor("faces", CROP_PX, CROP_PX, 3, dtype="uint8")
KNOBS = (tensor("attributes", len(ATTRIBUTES)), tensor("strength", 1), tensor("injection", 1))
TENSORS = {
    "protect": model([FACES, *KNOBS], [dataclasses.replace(FACES, name="protected")]),
    "attributes": model([FACES], [tensor("probabilities", len(ATTRIBUTES))]),
}
BATCH = BatchProfile(min=1, opt=8, max=8)


def plan_of(name: str) -> bytes:
    return f"a plan of {name}".encode()


@pytest.fixture
def gpu(public_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """Knows the plans of the bundle's two networks."""
    with ExitStack() as opened:
        networks = {}
        for name, tensors in TENSORS.items():
            computed = opened.enter_context(create_backend("ort-cpu", public_bundle.read(name), threads=1))
            networks[plan_of(name)] = FakeNetwork(tensors, computed.run)
        yield FakeGpu((BATCH.min, BATCH.opt, BATCH.max), networks).install(monkeypatch)


@pytest.fixture
def next_best(monkeypatch: pytest.MonkeyPatch) -> str:
    """What ``auto`` takes without plans: OpenVINO drops inputs that a network does not read, as the toy."""
    monkeypatch.setattr("runtime.backends.AUTO_ORDER", ("ort-cpu",))
    return "ort-cpu"


@pytest.fixture
def engines(public_bundle: Bundle, tmp_path: Path) -> Path:
    """What ``export.repository --tensorrt`` leaves for the bundle."""
    folder = tmp_path / "engines"
    folder.mkdir()
    for name in TENSORS:
        write(folder, name, onnx_sha256=sha256_of(public_bundle.read(name)))
    return folder


def write(folder: Path, name: str, **changes: Any) -> None:
    path = folder / f"{name}.plan"
    path.write_bytes(plan_of(name))
    about = sidecar(plan_of(name), **{"architectures": ("9.0",), "batch": BATCH, **changes})
    sidecar_path(path).write_text(about.to_json(), encoding="utf-8")


def edit(engines: Path, **fields: Any) -> None:
    """The description of ``protect``'s plan, changed by hand."""
    path = sidecar_path(engines / "protect.plan")
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def protect(bundle: Bundle, out: Path, *options: object, **environment: str) -> Result:
    arguments = [
        "protect",
        PORTRAIT,
        "-o",
        out,
        "--bundle",
        bundle.folder,
        "--threads",
        1,
        "--json",
        *options,
    ]
    return CliRunner().invoke(main, list(map(str, arguments)), env=environment)


@pytest.mark.parametrize("backend", ["tensorrt", "auto"])
def test_a_photo_is_protected_by_plans_as_by_onnx_runtime(
    backend: str, gpu: FakeGpu, public_bundle: Bundle, engines: Path, tmp_path: Path
) -> None:
    plain, out = tmp_path / "plain.png", tmp_path / "out.png"
    assert protect(public_bundle, plain).exit_code == 0
    done = protect(public_bundle, out, "--backend", backend, ERASABLEMASK_ENGINES=str(engines))
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["backend"] == "tensorrt"
    assert ("Networks run on tensorrt." in done.stderr) == (backend == "auto")
    assert out.read_bytes() == plain.read_bytes()
    assert sorted(gpu.loaded) == [plan_of("attributes"), plan_of("protect")]
    assert (gpu.memory, gpu.pinned, gpu.stack) == ({}, set(), [])


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "another architecture": ({"architectures": ["8.6"]}, "needs a GPU of compute capability 8.6; found 9.0"),
    "another version": ({"flavour_version": "10.4.0"}, "the plan needs tensorrt 10.4.0; found 10.3.0"),
    "another plan": ({"plan_sha256": "0" * 64}, "the plan's SHA-256 differs: expected 0000"),
    "another bundle": ({"onnx_sha256": "0" * 64}, "the SHA-256 of the plan's ONNX file differs"),
    "code for the processor": ({"version_compatible": True}, "build one without --version-compatible"),
}
EDITS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown precision": ({"precision": "int4"}, "precision must be one of fp32, fp16, bf16, int8"),
    "another format": ({"version": 2}, "a plan's sidecar has version 2, this program reads 1"),
}


@pytest.mark.parametrize("fault", {**FAULTS, **EDITS})
def test_a_plan_that_does_not_fit_is_refused_and_nothing_is_written(
    fault: str, gpu: FakeGpu, public_bundle: Bundle, engines: Path, tmp_path: Path
) -> None:
    fields, message = {**FAULTS, **EDITS}[fault]
    edit(engines, **fields)
    done = protect(public_bundle, tmp_path / "out.png", "--backend", "tensorrt", "--engines", engines)
    assert (done.exit_code, message in done.stderr) == (1, True), done.output
    assert not (tmp_path / "out.png").exists()
    assert gpu.loaded == []
    assert (gpu.memory, gpu.pinned, gpu.stack) == ({}, set(), [])


@pytest.mark.parametrize("fault", FAULTS)
def test_auto_takes_another_backend_for_a_plan_that_does_not_fit(
    fault: str, gpu: FakeGpu, public_bundle: Bundle, engines: Path, next_best: str, tmp_path: Path
) -> None:
    """Only for the network whose plan it is."""
    edit(engines, **FAULTS[fault][0])
    done = protect(public_bundle, tmp_path / "out.png", "--backend", "auto", "--engines", engines)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["backend"] == f"{next_best}, tensorrt"
    assert f"Networks run on {next_best}, tensorrt." in done.stderr
    assert gpu.loaded == [plan_of("attributes")]


def test_code_for_the_processor_runs_if_the_user_allows_it(
    gpu: FakeGpu, public_bundle: Bundle, engines: Path, tmp_path: Path
) -> None:
    edit(engines, version_compatible=True)
    plans = ("--backend", "tensorrt", "--engines", engines, "--allow-host-code")
    done = protect(public_bundle, tmp_path / "out.png", *plans)
    assert done.exit_code == 0, done.output
    assert sorted(gpu.loaded) == [plan_of("attributes"), plan_of("protect")]


@pytest.mark.parametrize("backend", ["tensorrt", "auto"])
def test_a_folder_without_plans_is_a_mistake(
    backend: str, gpu: FakeGpu, public_bundle: Bundle, tmp_path: Path
) -> None:
    done = protect(public_bundle, tmp_path / "x.png", "--backend", backend, "--engines", tmp_path / "nowhere")
    assert done.exit_code == 1
    assert "protect.plan.json: No such file or directory; rebuild the plan on this machine" in done.stderr


def test_without_the_library_the_extra_is_named_and_auto_goes_on(
    public_bundle: Bundle, engines: Path, next_best: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    done = protect(public_bundle, tmp_path / "out.png", "--backend", "tensorrt", "--engines", engines)
    assert done.exit_code == 1
    assert "'tensorrt' is needed for this and is not installed" in done.stderr
    assert "pip install '.[gpu]'" in done.stderr
    done = protect(public_bundle, tmp_path / "out.png", "--backend", "auto", "--engines", engines)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["backend"] == next_best


@pytest.mark.parametrize(
    ("verb", "options", "message"),
    [
        ("protect", ("--backend", "tensorrt"), "--backend tensorrt needs --engines FOLDER"),
        ("protect", ("--allow-host-code",), "--allow-host-code belongs to --backend tensorrt or auto"),
        ("protect", ("--backend", "auto", "--allow-host-code"), "--allow-host-code is about plans"),
        ("protect", ("--engines", "."), "--engines belongs to --backend tensorrt or auto"),
        ("erase", ("--backend", "tensorrt"), "'tensorrt' is not one of 'auto', 'ort-cpu'"),
    ],
)
def test_plans_and_their_folder_belong_together(
    verb: str, options: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    """The restorer is a secret and has no plan."""
    arguments = [verb, str(PORTRAIT), "-o", str(tmp_path / "x.png"), *options]
    done = CliRunner().invoke(main, arguments)
    assert (done.exit_code, message in done.stderr) == (2, True), done.output


def test_the_name_alone_is_no_backend(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"plans, which lie in a folder; give with_plans\(\.\.\.\)"):
        create_backend("tensorrt", b"")
    with pytest.raises(BackendError, match="plans run on the backend tensorrt or auto, found 'ort-cpu'"):
        with_plans("ort-cpu", tmp_path)
