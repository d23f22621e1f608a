"""Triton repositories: what the server is told is what the manifest says, and the restorer is in none."""

from __future__ import annotations

import dataclasses
import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
from click.testing import CliRunner
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from export.engine import Engine
from export.errors import ExportError
from export.repository import PLANS_HINT, main
from export.triton_repository import write_repositories
from runtime.authority import load_secret, unseal_model
from runtime.engine_sidecar import read_engine
from runtime.errors import BundleError, MissingExtraError
from runtime.manifest import MANIFEST_NAME, Manifest, ModelFile, Role, TensorSpec, open_bundle, sha256_of
from runtime.serving.triton_config import ONNX, TENSORRT, Platform, config_text
from runtime.shipped import default_bundle
from tests.conftest import CROP_PX, MakeBundle
from tests.manifests import manifest
from tests.sidecars import sidecar
from tests.toy_anonymiser import CELLS, toy_anonymiser

ROOT = Path(__file__).parents[1]
COMMITTED = ROOT / "triton_models"
PUBLIC, AUTHORITY = default_bundle("public"), default_bundle("authority")

FACES = TensorSpec(name="faces", dtype="uint8", shape=(-1, 16, 16, 3))
COLUMN = TensorSpec(name="strength", dtype="float32", shape=(-1, 1))
ENTRY = ModelFile(path="x.onnx", sha256="0" * 64, inputs=(FACES, COLUMN), outputs=(FACES,))

CONFIGS = {
    f"{model}/{config}"
    for model in ("public/protect", "public/attributes", "authority/restore")
    for config in ("config.pbtxt", "configs/trt.pbtxt")
}
WEIGHTS = {"public/protect/1/model.onnx", "public/attributes/1/model.onnx"}


def parsed(text: str) -> Any:
    """The message; a field that Triton does not know raises."""
    return text_format.Parse(text, pb.ModelConfig())


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def save_bundle(folder: Path, role: Role, **fields: Any) -> Path:
    """A bundle of files that are no networks: the writer copies bytes."""
    folder.mkdir(parents=True)
    models = {}
    for name in ("protect", "attributes", "pnet") if role == "public" else ("restore", "pnet"):
        data = f"weights of {name}".encode()
        (folder / name).write_bytes(data)
        models[name] = dataclasses.replace(ENTRY, path=name, sha256=sha256_of(data), sealed=name == "restore")
    save_manifest(folder, manifest(role=role, models=models, **{"max_batch": 8, **fields}))
    return folder


def save_manifest(folder: Path, content: Manifest) -> None:
    (folder / MANIFEST_NAME).write_text(content.to_json(), encoding="utf-8")


def change_entry(folder: Path, name: str, **fields: Any) -> None:
    old = open_bundle(folder).manifest
    models = {**old.models, name: dataclasses.replace(old.models[name], **fields)}
    save_manifest(folder, dataclasses.replace(old, models=models))


@pytest.fixture
def public(tmp_path: Path) -> Path:
    return save_bundle(tmp_path / "bundle" / "public", "public")


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    return save_bundle(tmp_path / "bundle" / "authority", "authority")


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """Where to write; afterwards, no temporary folder may be left beside it."""
    yield tmp_path / "models"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Repositories of the shipped bundles; tests do not change them."""
    folder = tmp_path_factory.mktemp("shipped") / "models"
    write_repositories(PUBLIC, AUTHORITY, folder)
    return folder


def entries(role: Role) -> list[tuple[str, ModelFile]]:
    models = {"public": ("protect", "attributes"), "authority": ("restore",)}[role]
    return [(name, open_bundle(default_bundle(role)).manifest.models[name]) for name in models]


CASES = [
    pytest.param(role, name, entry, platform, id=f"{name}-{platform.name}")
    for role in ("public", "authority")
    for name, entry in entries(role)
    for platform in (ONNX, TENSORRT)
]


# What the server is told.


@pytest.mark.parametrize(("role", "name", "entry", "platform"), CASES)
def test_a_configuration_says_what_the_manifest_says(
    shipped: Path, role: Role, name: str, entry: ModelFile, platform: Platform
) -> None:
    config = parsed((shipped / role / name / platform.config).read_text())
    assert (config.name, config.platform) == (name, platform.name)
    assert config.max_batch_size == open_bundle(default_bundle(role)).manifest.max_batch
    types = {"uint8": pb.TYPE_UINT8, "float32": pb.TYPE_FP32}
    for told, specs in ((config.input, entry.inputs), (config.output, entry.outputs)):
        expected = [(spec.name, types[spec.dtype], spec.shape[1:]) for spec in specs]
        assert [(tensor.name, tensor.data_type, tuple(tensor.dims)) for tensor in told] == expected
        assert all(spec.shape[0] == -1 for spec in specs)


@pytest.mark.parametrize(("role", "name", "entry", "platform"), CASES)
def test_a_configuration_leaves_no_choice_to_the_server(
    shipped: Path, role: Role, name: str, entry: ModelFile, platform: Platform
) -> None:
    config = parsed((shipped / role / name / platform.config).read_text())
    (group,) = config.instance_group
    kind = pb.ModelInstanceGroup.KIND_GPU if platform is TENSORRT else pb.ModelInstanceGroup.KIND_AUTO
    assert (group.kind, group.count) == (kind, 1)
    assert config.version_policy.latest.num_versions == 1
    assert config.HasField("response_cache")
    assert not config.response_cache.enable
    batching = config.dynamic_batching
    assert batching.max_queue_delay_microseconds == 0
    assert config.HasField("dynamic_batching")
    assert not batching.preferred_batch_size
    assert not batching.HasField("default_queue_policy"), "Triton would prepare no batch while another runs"


@pytest.mark.parametrize(("role", "name", "entry", "platform"), CASES)
def test_warm_up_fills_every_input_for_every_batch_that_needs_a_program(
    shipped: Path, role: Role, name: str, entry: ModelFile, platform: Platform
) -> None:
    config = parsed((shipped / role / name / platform.config).read_text())
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 2, 4, 8, config.max_batch_size]
    inputs = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in config.input}
    for warmup in config.model_warmup:
        assert {key: (value.data_type, list(value.dims)) for key, value in warmup.inputs.items()} == inputs
        assert all(value.zero_data for value in warmup.inputs.values())


@pytest.mark.parametrize("name", ["protect", "attributes"])
def test_a_configuration_describes_the_network_beside_it(shipped: Path, name: str) -> None:
    """ONNX Runtime, which serves it, names the same inputs and outputs, and takes the warm-up's batches."""
    folder = shipped / "public" / name
    config = parsed((folder / "config.pbtxt").read_text())
    session = ort.InferenceSession(folder / "1/model.onnx", providers=["CPUExecutionProvider"])
    types = {"tensor(uint8)": pb.TYPE_UINT8, "tensor(float)": pb.TYPE_FP32}
    for told, found in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        expected = [(value.name, types[value.type], value.shape[1:]) for value in found]
        assert [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in told] == expected
        assert all(isinstance(value.shape[0], str) for value in found)


@pytest.mark.parametrize("platform", [ONNX, TENSORRT])
def test_the_smallest_server_takes_one_face_at_a_time(platform: Platform) -> None:
    config = parsed(config_text("protect", ENTRY, 1, platform))
    assert config.max_batch_size == 1
    assert [warmup.batch_size for warmup in config.model_warmup] == [1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inputs": ()}, "the manifest names no inputs of 'protect'"),
        ({"outputs": ()}, "the manifest names no outputs of 'protect'"),
        (
            {"inputs": (dataclasses.replace(FACES, dtype="float64"),)},
            "'faces' of 'protect' must be one of uint8, float32 for Triton, found float64",
        ),
        ({"inputs": (dataclasses.replace(FACES, shape=(8, 16, 16, 3)),)}, r"found shape \(8, 16, 16, 3\)"),
        ({"inputs": (dataclasses.replace(FACES, shape=(-1, -1, 16, 3)),)}, r"found shape \(-1, -1, 16, 3\)"),
        ({"outputs": (dataclasses.replace(FACES, shape=(-1,)),)}, r"found shape \(-1,\)"),
        ({"outputs": (dataclasses.replace(FACES, shape=()),)}, r"found shape \(\)"),
    ],
)
def test_a_network_that_triton_cannot_be_told_of_is_refused(
    public: Path, out: Path, fields: dict[str, Any], message: str
) -> None:
    change_entry(public, "protect", **fields)
    with pytest.raises(BundleError, match=message):
        write_repositories(public, None, out)
    assert not out.exists()


# What is in the folders.


def test_the_committed_configurations_are_those_of_the_shipped_bundle(shipped: Path) -> None:
    written = {name: data.decode() for name, data in files(shipped).items() if name in CONFIGS}
    committed = {name: data.decode() for name, data in files(COMMITTED).items() if name.endswith(".pbtxt")}
    assert committed == written


def test_models_are_the_bundles_files_and_nothing_else_is_there(shipped: Path) -> None:
    assert files(shipped).keys() == CONFIGS | WEIGHTS
    models = open_bundle(PUBLIC).manifest.models
    for name in ("protect", "attributes"):
        data = (shipped / "public" / name / "1/model.onnx").read_bytes()
        assert sha256_of(data) == models[name].sha256


def test_the_restorer_is_in_no_file(shipped: Path) -> None:
    """Neither whole nor in part: runs of 64 bytes from all over it, plain or sealed, are in no file."""
    bundle = open_bundle(AUTHORITY)
    plain = unseal_model(bundle, load_secret(AUTHORITY / "demo.key", None))
    for secret in (plain, bundle.read("restore")):
        pieces = [secret[start : start + 64] for start in range(len(secret) // 4, len(secret), 500_000)]
        assert len(pieces) >= 5
        for name, data in files(shipped).items():
            assert not any(piece in data for piece in pieces), name
    assert not any("restore" in name for name in files(shipped / "public"))
    for config in ("config.pbtxt", "configs/trt.pbtxt"):
        text = (shipped / "authority/restore" / config).read_text()
        assert "# The restorer is the authority's secret" in text


def test_without_an_authority_there_is_only_the_public_repository(public: Path, out: Path) -> None:
    write_repositories(public, None, out)
    assert files(out).keys() == {name for name in CONFIGS | WEIGHTS if name.startswith("public/")}


def engine(plan: bytes, flavour: str = "tensorrt") -> Engine:
    return Engine(plan=plan, sidecar=sidecar(plan, flavour=flavour))


def test_plans_lie_beside_the_networks(public: Path, authority: Path, out: Path) -> None:
    engines = {"protect": engine(b"a plan"), "attributes": engine(b"another", "tensorrt_rtx")}
    write_repositories(public, authority, out, engines=engines)
    described = {f"engines/{name}.plan{suffix}" for name in engines for suffix in ("", ".json")}
    assert files(out).keys() == CONFIGS | WEIGHTS | described | {"public/protect/1/model.plan"}
    assert (out / "public/protect/1/model.plan").read_bytes() == b"a plan"
    for name, built in engines.items():
        assert read_engine(out / f"engines/{name}.plan") == (built.plan, built.sidecar)


@pytest.mark.parametrize("name", ["restore", "pnet"])
def test_plans_are_of_public_models_only(public: Path, authority: Path, out: Path, name: str) -> None:
    with pytest.raises(ExportError, match=f"plans of protect and attributes only, found one of '{name}'"):
        write_repositories(public, authority, out, engines={name: engine(b"a plan")})
    assert not out.exists()


# Whole or not at all.


@pytest.mark.parametrize(("role", "name"), [("public", "protect"), ("authority", "restore")])
def test_a_changed_file_is_refused(public: Path, authority: Path, out: Path, role: Role, name: str) -> None:
    ({"public": public, "authority": authority}[role] / name).write_bytes(b"other weights")
    with pytest.raises(BundleError, match=f"{name} was changed or damaged: expected SHA-256"):
        write_repositories(public, authority, out)
    assert not out.exists()


def test_bundles_of_the_wrong_role_are_refused(public: Path, authority: Path, out: Path) -> None:
    with pytest.raises(BundleError, match=r"expected the public bundle in .*, found the authority one"):
        write_repositories(authority, None, out)
    with pytest.raises(BundleError, match=r"expected the authority bundle in .*, found the public one"):
        write_repositories(public, public, out)
    assert not out.exists()


def test_a_sealed_public_network_is_refused(public: Path, out: Path) -> None:
    change_entry(public, "protect", sealed=True)
    with pytest.raises(BundleError, match=r"'protect' in .* is sealed, a server could not load it"):
        write_repositories(public, None, out)
    assert not out.exists()


@pytest.mark.parametrize("earlier", [False, True])
def test_a_full_disk_leaves_what_was_there(
    public: Path, authority: Path, out: Path, monkeypatch: pytest.MonkeyPatch, earlier: bool
) -> None:
    if earlier:
        write_repositories(public, authority, out)
    before = files(out)
    write = Path.write_bytes

    def fill_up(path: Path, data: bytes) -> int:
        if path.name == "model.onnx" and path.parts[-3] == "attributes":
            write(path, data[:3])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    with pytest.raises(ExportError, match=r"cannot write .*attributes.*: No space left on device"):
        write_repositories(public, authority, out, overwrite=True)
    assert files(out) == before
    assert out.exists() == earlier


def test_a_failed_rename_brings_the_old_repositories_back(
    public: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_repositories(public, None, out)
    before, rename = files(out), Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.suffix == ".partial":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(ExportError, match="Input/output error"):
        write_repositories(public, None, out, overwrite=True)
    assert files(out) == before


def test_existing_repositories_are_replaced_only_when_asked(public: Path, authority: Path, out: Path) -> None:
    write_repositories(public, authority, out, engines={"protect": engine(b"a plan of the old weights")})
    (out / "README.md").write_text("kept")
    before = files(out)
    with pytest.raises(ExportError, match=r"models exists and is kept; .* add --overwrite"):
        write_repositories(public, None, out)
    assert files(out) == before
    other = save_bundle(public.with_name("other"), "public", max_batch=4)
    write_repositories(other, None, out, overwrite=True)
    after = files(out)
    assert after.keys() == {name for name in CONFIGS | WEIGHTS if name.startswith("public/")} | {"README.md"}
    assert parsed(after["public/protect/config.pbtxt"].decode()).max_batch_size == 4


def test_configurations_without_weights_are_replaced_as_in_a_fresh_checkout(
    public: Path, authority: Path, out: Path
) -> None:
    write_repositories(public, authority, out)
    for name in WEIGHTS:
        (out / name).unlink()
        (out / name).parent.rmdir()
    write_repositories(public, authority, out, overwrite=True)
    assert files(out).keys() == CONFIGS | WEIGHTS


@pytest.mark.parametrize(
    "stranger", ["public/mine/config.pbtxt", "public/protect/2/model.onnx", "authority/restore/1/model.onnx"]
)
def test_a_folder_with_other_models_is_never_replaced(public: Path, out: Path, stranger: str) -> None:
    write_repositories(public, None, out)
    (out / stranger).parent.mkdir(parents=True)
    (out / stranger).write_bytes(b"somebody's own")
    before = files(out)
    with pytest.raises(ExportError, match=f"this command did not write {stranger}"):
        write_repositories(public, None, out, overwrite=True)
    assert files(out) == before


def test_a_folder_without_repositories_is_never_replaced(public: Path, out: Path) -> None:
    out.mkdir()
    (out / "photo.jpg").write_bytes(b"a photo")
    with pytest.raises(ExportError, match="it holds no model repositories of this command"):
        write_repositories(public, None, out, overwrite=True)
    assert files(out) == {"photo.jpg": b"a photo"}


def test_an_anonymisers_repository_has_its_one_model_and_no_plans(
    make_bundle: MakeBundle, tmp_path: Path, out: Path
) -> None:
    bundle = toy_anonymiser(make_bundle)
    folder = tmp_path / "anonymiser"
    folder.mkdir()
    bundle.folder.rename(folder / "public")
    arguments = ["--bundle", str(folder), "--out", str(out)]
    plans = CliRunner().invoke(main, [*arguments, "--tensorrt"])
    assert (plans.exit_code, "no plans of the anonymiser" in plans.output) == (1, True)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"{out}/public: anonymise\n")
    assert files(out).keys() == {"public/anonymise/config.pbtxt", "public/anonymise/1/model.onnx"}
    config = parsed((out / "public/anonymise/config.pbtxt").read_text())
    inputs = {tensor.name: list(tensor.dims) for tensor in config.input}
    assert inputs["grain"] == [1, CROP_PX, CROP_PX]
    assert inputs["shade"] == [3, CELLS, CELLS]
    write_repositories(folder / "public", None, out, overwrite=True)  # it knows its own again


# The command, and what it needs.


def test_command_writes_both_repositories(public: Path, authority: Path, out: Path) -> None:
    result = CliRunner().invoke(main, ["--bundle", str(public.parent), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert result.output == (f"{out}/public: protect, attributes\n{out}/authority: restore\n{PLANS_HINT}\n")
    assert files(out).keys() == CONFIGS | WEIGHTS


def test_command_says_what_went_wrong(public: Path, out: Path) -> None:
    (public / "protect").unlink()
    result = CliRunner().invoke(main, ["--bundle", str(public.parent), "--out", str(out)])
    assert result.exit_code == 1
    assert f"cannot read {public / 'protect'}" in result.output
    assert "Nothing was written." in result.output


def test_command_needs_neither_torch_nor_onnx(public: Path, out: Path) -> None:
    code = (
        "import runpy, sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'onnx', 'onnxruntime', 'training')))\n"
        f"sys.argv = ['x', '--bundle', {str(public.parent)!r}, '--out', {str(out)!r}]\n"
        "runpy.run_module('export.repository', run_name='__main__')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert (out / "public/protect/config.pbtxt").is_file()


@pytest.mark.parametrize("blocked", ["tritonclient", "tritonclient.grpc", "google.protobuf"])
def test_a_missing_client_is_named_with_its_extra(
    public: Path, out: Path, monkeypatch: pytest.MonkeyPatch, blocked: str
) -> None:
    for name in [name for name in sys.modules if name == blocked or name.startswith(f"{blocked}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, blocked, None)
    with pytest.raises(MissingExtraError, match=r"'tritonclient' is needed .* pip install '\.\[triton\]'"):
        write_repositories(public, None, out)
    assert not out.exists()


def test_a_client_without_grpc_is_named_with_its_extra(
    public: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tritonclient turns the missing module into a RuntimeError of its own."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("tritonclient", "grpc")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[triton\]'"):
        write_repositories(public, None, out)
    assert not out.exists()
