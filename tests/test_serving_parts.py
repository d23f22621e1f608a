"""The parts that a server is put together from: repository, installation, environment, flags, logs."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from runtime.errors import BackendError, BundleError, ServingError
from runtime.manifest import Bundle, open_bundle
from runtime.serving import environment, installation
from runtime.serving.endpoint import ClientTls, Endpoint, check_free, free_port, public_endpoint
from runtime.serving.environment import STAMP, make_environment, wanted, what_is_wrong
from runtime.serving.health import described, endpoint_of
from runtime.serving.installation import find_server
from runtime.serving.logs import JsonFormatter
from runtime.serving.process import server_command
from runtime.serving.public import arrange_public
from runtime.serving.repository import ServedModel, models_of, names_of, open_role, platform_named
from runtime.serving.settings import ServerSettings
from runtime.serving.staging import StagedRepository
from runtime.serving.triton_config import ONNX, TENSORRT
from runtime.shipped import default_bundle
from tests.conftest import MakeBundle
from tests.sidecars import sidecar
from tests.test_triton_repository import save_bundle
from tests.toy_anonymiser import toy_anonymiser

ROOT = Path(__file__).parents[1]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(save_bundle(tmp_path / "bundle", "public"))


def settings(**fields: Any) -> ServerSettings:
    return ServerSettings(**{"role": "public", "bundle": Path("bundle/public"), **fields})


# The repository.


def test_models_come_from_the_bundle_with_their_hashes_checked(bundle: Bundle) -> None:
    models = models_of(bundle, instances=3)
    assert list(models) == ["protect", "attributes"]
    assert models["protect"].files == {"model.onnx": b"weights of protect"}
    config = text_format.Parse(models["protect"].configs["config.pbtxt"], pb.ModelConfig())
    assert config.instance_group[0].count == 3
    (bundle.folder / "protect").write_bytes(b"other")
    with pytest.raises(BundleError, match="protect was changed or damaged"):
        models_of(bundle)


def test_an_anonymiser_is_served_on_the_cpu_by_what_it_was_compared_in(make_bundle: MakeBundle) -> None:
    """A GPU's library may compute in less than float32, and there are no plans."""
    bundle = toy_anonymiser(make_bundle)
    (name,) = models = models_of(bundle)
    assert name == "anonymise"
    assert list(models[name].configs) == ["config.pbtxt"]
    config = text_format.Parse(models[name].configs["config.pbtxt"], pb.ModelConfig())
    assert [tensor.name for tensor in config.input] == ["faces", "grain", "shade", "strength"]
    assert config.instance_group[0].kind == pb.ModelInstanceGroup.KIND_CPU
    assert len(arrange_public(settings(bundle=bundle.folder)).doors) == 1
    with pytest.raises(BackendError, match="or openvino-fp32, found openvino-bf16; less than float32"):
        arrange_public(settings(bundle=bundle.folder, backend="openvino-bf16"))


def test_an_anonymiser_has_no_authority(make_bundle: MakeBundle) -> None:
    bundle = make_bundle("authority", system="anonymiser")
    with pytest.raises(BundleError, match="no server serves the authority bundle of the anonymiser"):
        names_of(bundle.manifest)


def test_the_role_must_be_the_bundles() -> None:
    with pytest.raises(BundleError, match=r"expected the public bundle in .*, found the authority one"):
        open_role(default_bundle("authority"), "public")


def save_repository(folder: Path, bundle: Bundle, *, plan: bool) -> Path:
    for name, model in models_of(bundle).items():
        for path, text in model.configs.items():
            target = folder / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        for version in ("2", "10"):
            (folder / name / version).mkdir()
            (folder / name / version / "model.onnx").write_bytes(model.files["model.onnx"])
        if plan:
            data = b"plan of " + name.encode()
            (folder / name / "10" / "model.plan").write_bytes(data)
            described = sidecar(data, onnx_sha256=model.entry.sha256)
            (folder.parent / "engines").mkdir(exist_ok=True)
            (folder.parent / "engines" / f"{name}.plan.json").write_text(described.to_json())
    return folder


def test_a_repository_brings_its_latest_plans(tmp_path: Path, bundle: Bundle) -> None:
    folder = save_repository(tmp_path / "models", bundle, plan=True)
    models = models_of(bundle, repository=folder, platform=TENSORRT)
    assert models["protect"].files["model.plan"] == b"plan of protect"
    assert models["protect"].configs.keys() == {"config.pbtxt", "configs/trt.pbtxt"}


@pytest.mark.parametrize("damage", ["no plan", "no configuration"])
def test_a_configuration_that_is_asked_for_must_be_there(tmp_path: Path, bundle: Bundle, damage: str) -> None:
    """Triton would take another one, without a word."""
    folder = save_repository(tmp_path / "models", bundle, plan=damage != "no plan")
    if damage == "no configuration":
        (folder / "attributes/configs/trt.pbtxt").unlink()
    with pytest.raises(ServingError, match=r"tensorrt_plan needs configs/trt.pbtxt and model.plan of"):
        models_of(bundle, repository=folder, platform=TENSORRT)


def test_a_repository_of_another_bundle_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    folder = save_repository(tmp_path / "models", bundle, plan=False)
    (folder / "protect/10/model.onnx").write_bytes(b"other weights")
    with pytest.raises(ServingError, match=r"10/model.onnx is not the bundle's protect: expected SHA-256"):
        models_of(bundle, repository=folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("a flipped bit", r"the plan of 'protect' in .*models is another: expected SHA-256 \w+, found"),
        ("of another network", r"the network that .*protect.plan.json says the plan is of is another"),
        (
            "no description",
            r"cannot read .*engines/protect.plan.json, .* No such file .*; keep engines/ beside",
        ),
    ],
)
def test_a_plan_must_be_the_described_one_of_the_bundles_network(
    tmp_path: Path, bundle: Bundle, damage: str, message: str
) -> None:
    folder = save_repository(tmp_path / "models", bundle, plan=True)
    described = tmp_path / "engines/protect.plan.json"
    if damage == "a flipped bit":
        (folder / "protect/10/model.plan").write_bytes(b"plan of protecu")
    elif damage == "of another network":
        described.write_text(sidecar(b"plan of protect", onnx_sha256="0" * 64).to_json())
    else:
        described.unlink()
    with pytest.raises(ServingError, match=message):
        models_of(bundle, repository=folder, platform=TENSORRT)
    assert models_of(bundle, repository=folder)["protect"].files["model.onnx"] == b"weights of protect"


def test_configurations_have_known_names() -> None:
    assert platform_named(None) is ONNX
    assert platform_named("trt") is TENSORRT
    with pytest.raises(ServingError, match=r"expected --config-name to be one of trt, or .*; found 'tr'"):
        platform_named("tr")


def changed(models: dict[str, ServedModel], name: str, **fields: Any) -> dict[str, ServedModel]:
    return {**models, name: dataclasses.replace(models[name], **fields)}


def versions(folder: Path, name: str) -> dict[str, bytes]:
    return {
        path.name: (path / "model.onnx").read_bytes()
        for path in (folder / name).iterdir()
        if path.name != "configs" and path.is_dir()
    }


def test_an_update_becomes_a_version_and_is_settled_or_withdrawn(tmp_path: Path, bundle: Bundle) -> None:
    models = models_of(bundle)
    staged = StagedRepository(tmp_path / "models", models)
    assert staged.folder.stat().st_mode & 0o777 == 0o700
    assert versions(staged.folder, "protect") == {"1": b"weights of protect"}
    assert staged.stage(models) == {}
    new = changed(models, "protect", files={"model.onnx": b"new"})
    assert staged.stage(new) == {"protect": 2}
    assert versions(staged.folder, "protect") == {"1": b"weights of protect", "2": b"new"}
    staged.withdraw()
    assert versions(staged.folder, "protect") == {"1": b"weights of protect"}
    assert staged.stage(new) == {"protect": 2}
    staged.settle()
    assert versions(staged.folder, "protect") == {"2": b"new"}
    assert staged.stage(new) == {}
    assert staged.stage(models) == {"protect": 3}


def test_an_update_changes_weights_only(tmp_path: Path, bundle: Bundle) -> None:
    models = models_of(bundle)
    staged = StagedRepository(tmp_path / "models", models)
    with pytest.raises(ServingError, match="the new 'protect' has other tensors, batch sizes or instances"):
        staged.stage(changed(models, "protect", configs={"config.pbtxt": "other"}))
    with pytest.raises(ServingError, match="expected the models protect, attributes, found protect"):
        staged.stage({"protect": models["protect"]})


def test_a_full_disk_stages_nothing(tmp_path: Path, bundle: Bundle) -> None:
    full = False

    def write(path: Path, data: bytes) -> None:
        if full and path.parts[-3] == "attributes":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        path.write_bytes(data)

    models = models_of(bundle)
    staged = StagedRepository(tmp_path / "models", models, write=write)
    full = True
    new = changed(models, "protect", files={"model.onnx": b"new"})
    new = changed(new, "attributes", files={"model.onnx": b"new"})
    with pytest.raises(ServingError, match="No space left on device"):
        staged.stage(new)
    assert versions(staged.folder, "protect").keys() == {"1"}
    full = False
    assert staged.stage(new) == {"protect": 2, "attributes": 2}


# The server.


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation.shutil, "which", lambda name: None)


@pytest.mark.usefixtures("no_server")
def test_without_a_server_the_message_says_how_to_get_one(tmp_path: Path) -> None:
    wanted_settings = settings(environment=tmp_path / "env", metrics_port=8002, drain_s=7)
    with pytest.raises(ServingError) as caught:
        find_server(wanted_settings, tmp_path)
    message = str(caught.value)
    assert "there is no tritonserver on PATH" in message
    assert "there is none, or it was not finished" in message
    assert f"To make it: erasablemask serve-env {tmp_path / 'env'}" in message
    assert (
        "python -m export.repository --bundle bundle --out triton_models --overwrite && docker run" in message
    )
    assert (
        f"docker run --rm -p 127.0.0.1:8001:8001 -p 127.0.0.1:8002:8002 "
        f"-v {Path('triton_models/public').absolute()}:/models:ro nvcr.io/nvidia/tritonserver:24.10-py3 "
        "tritonserver --model-repository=/models --disable-auto-complete-config --strict-readiness=true "
        "--exit-timeout-secs=7 --allow-http=false"
    ) in message


@pytest.mark.usefixtures("no_server")
def test_tensorrt_needs_the_container(tmp_path: Path) -> None:
    with pytest.raises(ServingError) as caught:
        find_server(settings(config_name="trt", repository=Path("/srv/models")), tmp_path)
    message = str(caught.value)
    assert "the wheel's server runs ONNX only, found --config-name trt" in message
    assert "--gpus=all" in message
    assert "-v /srv/models:/models:ro" in message
    assert "--model-config-name=trt" in message
    assert "export.repository" not in message


def test_a_server_on_path_comes_first_and_has_its_own_backends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation.shutil, "which", lambda name: f"/opt/bin/{name}")
    found = find_server(settings(), tmp_path)
    assert (found.program, found.backends) == (Path("/opt/bin/tritonserver"), None)
    for fields in ({"threads": 2}, {"backend": "openvino-bf16"}):
        with pytest.raises(ServingError, match="brings its own backends"):
            find_server(settings(**fields), tmp_path)


def test_the_command_line_closes_what_is_not_asked_for() -> None:
    found = installation.Installation(program=Path("/t"), backends=Path("/b"), flags=("--cpu",))
    endpoint = Endpoint(host="127.0.0.1", grpc_port=1, token="secret")
    command = server_command(found, settings(drain_s=0.2), endpoint, Path("/m"), ["protect"], "p-")
    assert command == [
        "/t",
        "--model-repository=/m",
        "--model-control-mode=explicit",
        "--load-model=protect",
        "--disable-auto-complete-config",
        "--strict-readiness=true",
        "--exit-timeout-secs=1",
        "--log-format=ISO8601",
        "--grpc-address=127.0.0.1",
        "--grpc-port=1",
        "--grpc-restricted-protocol=model-repository,shared-memory,trace,logging:erasablemask-token=secret",
        "--allow-http=false",
        "--allow-metrics=false",
        "--cpu",
        "--backend-directory=/b",
        "--backend-config=python,shm-region-prefix-name=p-",
    ]
    assert "secret" not in repr(endpoint)


def test_tritons_ports_are_for_the_doors_only_and_shared_memory_is_opened_when_asked() -> None:
    endpoint = public_endpoint(
        settings(host="0.0.0.0", http_port=8000, metrics_port=8002, shared_memory=True)
    )
    flags = endpoint.server_flags()
    assert "--grpc-address=127.0.0.1" in flags
    assert "--http-address=127.0.0.1" in flags
    assert f"--http-port={endpoint.http_port}" in flags
    assert endpoint.http_port not in (None, 8000)
    assert "--metrics-address=0.0.0.0" in flags
    assert endpoint.restricted == ("model-repository", "trace", "logging")
    assert endpoint.grpc_port != 8001
    assert endpoint.grpc_url == f"127.0.0.1:{endpoint.grpc_port}"
    assert Endpoint(host="::", grpc_port=1).grpc_url == "[::1]:1"
    assert public_endpoint(settings()).token != public_endpoint(settings()).token


def test_a_servers_tls_is_passed_on() -> None:
    tls = ClientTls(server_ca=b"ca", certificate=b"c", key=b"k")
    endpoint = Endpoint(host="h", grpc_port=1, tls=tls, flags=("--grpc-use-ssl-mutual=true",))
    assert endpoint.server_flags()[-1] == "--grpc-use-ssl-mutual=true"
    assert "b'k'" not in repr(endpoint)


def test_a_taken_port_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServingError, match=rf"port {port} of 127.0.0.1: Address already in use; choose"):
            check_free(ServerSettings(role="public", bundle=Path(), grpc_port=port))
    check_free(ServerSettings(role="public", bundle=Path(), grpc_port=free_port()))


# The environment.


def test_an_environment_is_made_once_and_again_when_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []
    folder = tmp_path / "env"

    def run(command: list[str]) -> None:
        ran.append(command)
        if "venv" in command:
            environment.site_packages(folder).mkdir(parents=True)
            (folder / "pyvenv.cfg").touch()

    monkeypatch.setattr(environment, "_run", run)
    monkeypatch.setattr(environment, "_check_stub", lambda folder: None)
    assert make_environment(folder)
    assert [command[3:] for command in ran[1:]] == [
        ["install", "--quiet", "--no-deps", "nvidia-pytriton==0.7.0"],
        ["install", "--quiet", *wanted()["packages"]],
    ]
    assert wanted()["packages"][0] == "numpy>=1.26,<2"
    assert (environment.site_packages(folder) / "erasablemask.pth").read_text() == f"{ROOT}\n"
    assert not make_environment(folder)
    stamp = json.loads((folder / STAMP).read_text())
    (folder / STAMP).write_text(json.dumps({**stamp, "python": "3.0.0"}))
    assert what_is_wrong(folder) == f"expected python {stamp['python']}, found 3.0.0"
    assert make_environment(folder)
    (folder / STAMP).write_text("not JSON")
    assert "cannot be read" in str(what_is_wrong(folder))


def test_an_interrupted_environment_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "env"

    def fail(command: list[str]) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "pyvenv.cfg").touch()
        if "install" in command:
            raise ServingError("no network")

    monkeypatch.setattr(environment, "_run", fail)
    for _ in range(2):
        with pytest.raises(ServingError, match="no network"):
            make_environment(folder)
        assert what_is_wrong(folder) == "there is none, or it was not finished"


def test_a_folder_of_something_else_is_kept(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(ServingError, match="is no virtual environment and is kept; choose another folder"):
        make_environment(tmp_path)
    assert (tmp_path / "photo.jpg").exists()


def test_a_python_without_a_stub_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "python_version", lambda: "3.99")
    with pytest.raises(
        ServingError, match=r"Python 3.11 or 3.12 or 3.13, found .* and Python 3.99; use nvcr"
    ):
        make_environment(tmp_path / "env")


@pytest.mark.parametrize(
    ("program", "works"),
    [("echo Expected 9 arguments >&2; exit 1", True), ("echo no libpython3.so >&2; exit 127", False)],
)
def test_a_stub_without_its_libraries_is_found_out(tmp_path: Path, program: str, works: bool) -> None:
    stub = environment.stub_of(tmp_path)
    stub.parent.mkdir(parents=True)
    stub.write_text(f"#!/bin/sh\n{program}\n")
    stub.chmod(0o755)
    if works:
        environment._check_stub(tmp_path)
        return
    with pytest.raises(ServingError, match=r"stub cannot run here: no libpython3.so; it needs this Python's"):
        environment._check_stub(tmp_path)


def test_a_step_that_fails_says_why() -> None:
    with pytest.raises(ServingError, match=r"failed with status 3:\nno such package"):
        environment._run(
            [sys.executable, "-c", "import sys; print('no such package', file=sys.stderr); sys.exit(3)"]
        )


def test_the_backends_need_nothing_but_numpy_and_their_library() -> None:
    """What the server's own interpreter imports of this package."""
    code = (
        "import sys\n"
        "for name in ('PIL', 'cv2', 'cryptography', 'click', 'rich', 'tritonclient', 'google'):\n"
        "    sys.modules[name] = None\n"
        "import runtime.errors, runtime.backends.ort, runtime.backends.openvino\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Logs and health.


def test_json_lines_hold_time_level_and_message() -> None:
    record = logging.LogRecord("runtime.x", logging.WARNING, "f", 1, 'said "%s"', ("no",), None)
    line = json.loads(JsonFormatter().format(record))
    assert line.pop("time").endswith("Z")
    assert line == {"level": "warning", "logger": "runtime.x", "message": 'said "no"'}


@pytest.mark.parametrize("url", ["http://h:1", "grpc://h", "h:1", "grpc://h:99999", "grpc://h:1/path"])
def test_health_takes_grpc_addresses(url: str) -> None:
    none = {"ca": None, "certificate": None, "key": None}
    assert endpoint_of("grpc://[::1]:8001", **none).grpc_url == "[::1]:8001"
    with pytest.raises(ServingError, match="expected grpc://HOST:PORT or grpcs://HOST:PORT, found"):
        endpoint_of(url, **none)


def test_health_takes_certificates_for_tls_only(tmp_path: Path) -> None:
    pem = tmp_path / "a.pem"
    pem.write_bytes(b"pem")
    endpoint = endpoint_of("grpcs://h:1", ca=pem, certificate=None, key=None)
    assert endpoint.tls is not None
    assert (endpoint.tls.server_ca, endpoint.tls.certificate) == (b"pem", None)
    with pytest.raises(ServingError, match="certificates are for grpcs://"):
        endpoint_of("grpc://h:1", ca=pem, certificate=None, key=None)
    with pytest.raises(ServingError, match="a certificate and its key, found one"):
        endpoint_of("grpcs://h:1", ca=None, certificate=pem, key=None)
    with pytest.raises(ServingError, match=r"cannot read .*none\.pem: No such file"):
        endpoint_of("grpcs://h:1", ca=tmp_path / "none.pem", certificate=None, key=None)


def test_health_knows_the_tensors_of_this_project_only() -> None:
    from tritonclient.grpc import service_pb2

    tensor = service_pb2.ModelMetadataResponse.TensorMetadata
    answer = service_pb2.ModelMetadataResponse(inputs=[tensor(name="x", datatype="FP32", shape=[-1, 2])])
    (spec,) = described(answer).inputs
    assert (spec.name, spec.dtype, spec.shape) == ("x", "float32", (-1, 2))
    answer.inputs[0].datatype = "BYTES"
    with pytest.raises(ServingError, match="expected a tensor of UINT8, FP32, found 'x' of BYTES"):
        described(answer)


def test_the_backends_files_are_copies(tmp_path: Path) -> None:
    folder = tmp_path / "env"
    parts = environment.server_folder(folder) / "backends/python"
    for path in (environment.stub_of(folder), parts / "libtriton_python.so"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    with pytest.raises(ServingError, match=r"the wheel's server is not whole: .*triton_python_backend_utils"):
        installation._write_backend(folder, tmp_path / "backend")
    shutil.rmtree(tmp_path / "backend")
    (parts / "triton_python_backend_utils.py").touch()
    installation._write_backend(folder, tmp_path / "backend")
    names = {path.name for path in (tmp_path / "backend").iterdir() if not path.is_symlink()}
    assert names == {
        "libtriton_python.so",
        "triton_python_backend_utils.py",
        "triton_python_backend_stub",
        "model.py",
    }
