"""Recognisers on whole pictures: faces found anew by the project's detector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from runtime import recognizers
from runtime.detection import FaceDetector
from runtime.errors import BundleError
from runtime.manifest import Manifest
from runtime.results import Face
from training.evaluation import Embedder, Embedding
from training.fingerprint import Fingerprint, onnx_fingerprint
from training.surrogates import RecognizerCard

FARS = (0.1, 0.01, 0.001, 0.0001)


class VerifyRecognizer:
    """The recogniser of ``erasablemask verify``, the very file it would use here."""

    def __init__(self) -> None:
        self._recognizer = recognizers.load()
        self.name = self._recognizer.card.name
        self.sha256 = self._recognizer.card.sha256
        side = recognizers.SIDE_PX
        self.card = RecognizerCard(
            name=self.name,
            role="black-box",  # the registry of surrogates cannot load this file
            size_hw=(side, side),
            box=(0.0, 0.0, float(side), float(side)),
            path=self._recognizer.source,
            std=(1 / 255, 1 / 255, 1 / 255),
        )

    def fingerprint(self) -> Fingerprint:
        """What its network is known by."""
        assert self.card.path is not None
        return onnx_fingerprint(self.card.path)

    def embed(self, pixels: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> Embedding:
        return self._recognizer.embed(pixels, landmarks)


def target_embedding(manifest: Manifest) -> Embedding:
    """The target as the recogniser of ``erasablemask verify`` sees it, of unit norm.

    Raises:
        BundleError: the manifest does not carry it.
    """
    values = manifest.training.get("target_embeddings", {}).get("sface")
    if values is None or len(values) != recognizers.EMBEDDING_DIM:
        raise BundleError(
            "the manifest carries no SFace embedding of the target (training.target_embeddings.sface, "
            f"{recognizers.EMBEDDING_DIM} numbers); give the target's picture, or export the bundle with "
            "--target-embedding"
        )
    embedding = np.asarray(values, dtype=np.float32)
    return embedding / np.linalg.norm(embedding)


def main_face(faces: Sequence[Face], near: tuple[float, float]) -> Face | None:
    """The face whose landmarks' centre lies nearest to a point, or None where there is none."""
    return min(faces, key=lambda f: float(np.linalg.norm(f.landmarks.mean(0) - near)), default=None)


def find_main_face(
    pixels: NDArray[np.uint8], detector: FaceDetector, near: tuple[float, float] | None = None
) -> Face | None:
    """The face nearest to ``near`` (the picture's centre); None without a face."""
    height, width = pixels.shape[:2]
    return main_face(detector.detect(pixels), near or (width / 2, height / 2))


def embed_main_face(
    pixels: NDArray[np.uint8],
    detector: FaceDetector,
    recognizers: Sequence[Embedder],
    near: tuple[float, float] | None = None,
) -> dict[str, Embedding] | None:
    """Embeddings by name of the face nearest to ``near`` (the picture's centre); None without a face."""
    face = find_main_face(pixels, detector, near)
    if face is None:
        return None
    return {r.name: r.embed(pixels, face.landmarks) for r in recognizers}
