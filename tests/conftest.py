"""Shared fixtures: two real photos, the exported detector, and bundles whose networks are arithmetic."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from runtime import geometry
from runtime.authority import Secret, generate_key, seal_bundle_model, write_key_file
from runtime.backends import create_backend
from runtime.detection import FaceDetector
from runtime.manifest import (
    MANIFEST_NAME,
    Bundle,
    Manifest,
    ModelFile,
    Role,
    TensorSpec,
    open_bundle,
    sha256_of,
)

PICTURES = Path(__file__).parent / "pictures"
PORTRAIT = Path(__file__).parents[1] / "examples" / "portrait.jpg"
CROP_PX = 64
ATTRIBUTES = ("Bangs", "Eyeglasses", "Smiling")
# Levels that the toy networks add at full strength, and take away again.
TOY_CHANGE = 40


@pytest.fixture(autouse=True)
def _denormal_numbers() -> Iterator[None]:
    """Training's commands flush denormal numbers in the whole process; other tests count on them."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(scope="session")
def astronaut() -> NDArray[np.uint8]:
    """A 512x512 portrait, uint8 RGB."""
    return np.array(Image.open(PORTRAIT))


@pytest.fixture(scope="session")
def hopper() -> NDArray[np.uint8]:
    """A 600x512 portrait, uint8 RGB."""
    return np.array(Image.open(PICTURES / "hopper.jpg"))


@pytest.fixture(scope="session")
def group(astronaut: NDArray[np.uint8], hopper: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Both people side by side, 512 high."""
    return np.hstack([astronaut, hopper[:512]])


@pytest.fixture(scope="session")
def detector_files() -> dict[str, bytes]:
    """MTCNN's three networks as ONNX bytes, exported by this project."""
    from export.detector import export_detector

    return {name: graph.SerializeToString() for name, graph in export_detector().items()}


@pytest.fixture(scope="session")
def detector(detector_files: dict[str, bytes]) -> Iterator[FaceDetector]:
    """The real detector, on one thread."""
    nets = [create_backend("ort-cpu", detector_files[name], threads=1) for name in ("pnet", "rnet", "onet")]
    with FaceDetector(*nets) as opened:
        yield opened


def onnx_bytes(nodes: list[onnx.NodeProto], inputs: dict, outputs: dict, constants: dict) -> bytes:
    """A small ONNX model: ``inputs`` and ``outputs`` map names to (type, shape)."""
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()],
        [helper.make_tensor_value_info(name, *spec) for name, spec in outputs.items()],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


FACES = (TensorProto.UINT8, ["n", CROP_PX, CROP_PX, 3])


def protect_bytes(change: int = TOY_CHANGE) -> bytes:
    """``protected = clip(faces + change * strength)``."""
    column = (TensorProto.FLOAT, ["n", 1])
    return onnx_bytes(
        [
            helper.make_node("Cast", ["faces"], ["x"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["strength", "change"], ["levels"]),
            helper.make_node("Unsqueeze", ["levels", "axes"], ["levels4"]),
            helper.make_node("Add", ["x", "levels4"], ["sum"]),
            helper.make_node("Clip", ["sum", "low", "high"], ["clipped"]),
            helper.make_node("Cast", ["clipped"], ["protected"], to=TensorProto.UINT8),
        ],
        {
            "faces": FACES,
            "attributes": (TensorProto.FLOAT, ["n", len(ATTRIBUTES)]),
            "strength": column,
            "injection": column,
        },
        {"protected": FACES},
        {
            "change": np.float32(change),
            "axes": np.array([2, 3]),
            "low": np.float32(0),
            "high": np.float32(255),
        },
    )


def attributes_bytes() -> bytes:
    """The same probabilities for every face: 0.1, 0.9, 0.4."""
    return onnx_bytes(
        [
            helper.make_node("Cast", ["faces"], ["x"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "zero"], ["zeros"]),
            helper.make_node("Unsqueeze", ["zeros", "one"], ["column"]),
            helper.make_node("Add", ["column", "constant"], ["probabilities"]),
        ],
        {"faces": FACES},
        {"probabilities": (TensorProto.FLOAT, ["n", len(ATTRIBUTES)])},
        {
            "axes": np.array([1, 2, 3]),
            "one": np.array([1]),
            "zero": np.float32(0),
            "constant": np.array([[0.1, 0.9, 0.4]], np.float32),
        },
    )


def restore_bytes() -> bytes:
    """``restored = clip(faces - TOY_CHANGE)``."""
    return onnx_bytes(
        [
            helper.make_node("Cast", ["faces"], ["x"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["x", "change"], ["difference"]),
            helper.make_node("Clip", ["difference", "low", "high"], ["clipped"]),
            helper.make_node("Cast", ["clipped"], ["restored"], to=TensorProto.UINT8),
        ],
        {"faces": FACES},
        {"restored": FACES},
        {"change": np.float32(TOY_CHANGE), "low": np.float32(0), "high": np.float32(255)},
    )


MakeBundle = Callable[..., Bundle]


@pytest.fixture
def make_bundle(tmp_path: Path, detector_files: dict[str, bytes]) -> MakeBundle:
    """Writes a bundle: ``make_bundle(role, models=None, **fields of the manifest)``.

    ``drop`` names networks to leave out; ``inputs`` and ``outputs`` have what the manifest says of them.
    """

    def make(
        role: Role = "public",
        models: dict[str, bytes] | None = None,
        sealed: tuple[str, ...] = (),
        drop: tuple[str, ...] = (),
        inputs: dict[str, tuple[TensorSpec, ...]] | None = None,
        outputs: dict[str, tuple[TensorSpec, ...]] | None = None,
        **fields,
    ) -> Bundle:
        folder = tmp_path / f"bundle-{role}"
        folder.mkdir()
        files = {
            "protect": protect_bytes(),
            "attributes": attributes_bytes(),
            **detector_files,
            **(models or {}),
        }
        entries = {}
        for name, data in files.items():
            if name in drop:
                continue
            path = f"{name}.sealed" if name in sealed else f"{name}.onnx"
            (folder / path).write_bytes(data)
            entries[name] = ModelFile(
                path=path,
                sha256=sha256_of(data),
                inputs=(inputs or {}).get(name, ()),
                outputs=(outputs or {}).get(name, ()),
                sealed=name in sealed,
            )
        defaults = {
            "name": "toy",
            "image_size": CROP_PX,
            "crop_template": tuple(map(tuple, geometry.CROP_TEMPLATE.tolist())),
            "attributes": ATTRIBUTES,
            "strength": 1.0,
            "injection": 0.5,
            "max_batch": 8,
            "precision": "fp32",
            "opset": 18,
            "target": "nobody",
            "terms": "tests only",
        }
        manifest = Manifest(role=role, models=entries, **{**defaults, **fields})
        (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
        return open_bundle(folder)

    return make


@pytest.fixture
def public_bundle(make_bundle: MakeBundle) -> Bundle:
    """A public bundle that brightens faces by ``TOY_CHANGE`` levels."""
    return make_bundle()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """An authority's key."""
    path = tmp_path / "authority.key"
    write_key_file(path, generate_key())
    return path


@pytest.fixture
def authority_bundle(make_bundle: MakeBundle, key_file: Path) -> Bundle:
    """An authority's bundle, marked as a demo, that darkens faces again; sealed with ``key_file``."""
    from runtime.authority import read_key_file

    sealed = seal_bundle_model(restore_bytes(), Secret.from_key(read_key_file(key_file)))
    return make_bundle("authority", models={"restore": sealed}, sealed=("restore",), demo=True)


# The public gRPC door before a fake Triton; imported late, for those who have no tritonclient.


@pytest.fixture(scope="module")
def one_fake() -> Iterator[Any]:
    from .grpc_doors import FakeTriton

    fake = FakeTriton()
    yield fake
    fake.stop()


@pytest.fixture
def fake(one_fake: Any) -> Iterator[Any]:
    """A fake Triton of ``tests.grpc_doors`` that has received nothing yet."""
    one_fake.reset()
    yield one_fake
    one_fake.let_go.set()


@pytest.fixture(scope="module")
def one_door(one_fake: Any) -> Iterator[Any]:
    from .grpc_doors import door_to

    with door_to(one_fake, answer_s=3.0) as opened:
        yield opened


@pytest.fixture
def door(one_door: Any, fake: Any) -> Any:
    """The door to ``fake``, without shared memory, nothing in flight."""
    from .triton_fakes import wait_until

    wait_until(lambda: one_door._faces == 0)
    return one_door


@pytest.fixture(scope="module")
def memory_door(one_fake: Any) -> Iterator[Any]:
    """As ``door``, with shared memory."""
    from .grpc_doors import door_to

    with door_to(one_fake, shared_memory=True) as opened:
        yield opened


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training run of tiny networks; tests do not change it."""
    from .tiny_run import save_run

    return save_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faces for its export: enough to compare and to calibrate."""
    from export.faces import PARITY_FACES, synthetic_faces
    from export.recipe import CALIBRATION_FACES

    from .tiny_run import SIZE

    path = tmp_path_factory.mktemp("faces") / "crops.npy"
    np.save(path, synthetic_faces(PARITY_FACES + CALIBRATION_FACES, SIZE))
    return path
