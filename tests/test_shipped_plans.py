"""The shipped networks build into TensorRT plans; TensorRT-RTX needs no GPU for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from export.engine import EngineOptions
from export.engines import COMPUTED, build_engines, compare_graphs, plan_graphs
from export.faces import synthetic_faces
from export.repository import main
from runtime.authority import Secret, read_key_file, unseal_model
from runtime.engine_sidecar import BatchProfile, read_engine
from runtime.manifest import open_bundle
from runtime.serving.repository import names_of
from runtime.shipped import default_bundle

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed (extra dev)")


def test_the_command_builds_plans_of_the_shipped_public_bundle(tmp_path: Path) -> None:
    folder = default_bundle("public")
    command = ["--bundle", str(folder.parent), "--out", str(tmp_path / "out"), "--tensorrt", "tensorrt_rtx"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    manifest = open_bundle(folder).manifest
    for name in names_of(open_bundle(default_bundle("public")).manifest):
        plan, sidecar = read_engine(tmp_path / "out" / "engines" / f"{name}.plan")
        assert sidecar.precision == COMPUTED[manifest.precision]
        assert sidecar.batch == BatchProfile(min=1, opt=8, max=manifest.max_batch)
        sidecar.check(
            plan,
            onnx_sha256=manifest.models[name].sha256,
            flavour="tensorrt_rtx",
            flavour_version=trt.__version__,
            architecture="8.9",
        )


def test_the_shipped_restorer_builds_in_memory() -> None:
    """Its weights are a secret: a plan of it must not reach a disk, and no command builds one."""
    bundle = open_bundle(default_bundle("authority"))
    key = Secret.from_key(read_key_file(bundle.folder / "demo.key"))
    manifest, models = bundle.manifest, {"restore": unseal_model(bundle, key)}
    graphs = plan_graphs(models, manifest.precision)
    assert graphs != models, "a plan computes in float16, the bundle's file in float32"
    faces = synthetic_faces(3, manifest.image_size)
    compare_graphs(models, graphs, faces, len(manifest.attributes))
    engines = build_engines(
        models,
        graphs,
        precision=manifest.precision,
        max_batch=manifest.max_batch,
        options=EngineOptions(flavour="tensorrt_rtx"),
    )
    assert engines["restore"].sidecar.precision == COMPUTED[manifest.precision]
