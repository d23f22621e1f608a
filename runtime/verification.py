"""Face verification: whose face is whose, by the recogniser's cosine similarity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .detection import FaceDetector
from .errors import NoFaceError
from .geometry import ImageU8
from .recognizers import DEFAULT_FAR, Embedding, Recognizer
from .results import Face


@dataclass(frozen=True, eq=False)
class KnownFace:
    """A face and its embedding, ``(128,)`` float32 of unit norm."""

    face: Face
    embedding: Embedding


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two faces compared.

    Attributes:
        similarity: cosine in [-1, 1].
        threshold: cosine from which two faces count as one person, at ``far``.
        far: false accept rate of the threshold.
    """

    similarity: float
    threshold: float
    far: float

    @property
    def same(self) -> bool:
        """Whether the recogniser takes the two for one person."""
        return self.similarity >= self.threshold


def describe(pixels: ImageU8, detector: FaceDetector, recognizer: Recognizer) -> tuple[KnownFace, ...]:
    """Every face of a picture with its embedding, the largest first.

    Args:
        pixels: uint8 ``(H, W, 3)`` RGB.

    Raises:
        NoFaceError: there is none.
    """
    faces = detector.detect(pixels)
    if not faces:
        raise NoFaceError("no face was found in the picture, so there is nothing to compare")
    return tuple(KnownFace(face, recognizer.embed(pixels, face.landmarks)) for face in faces)


def compare(a: Embedding, b: Embedding, recognizer: Recognizer, *, far: float = DEFAULT_FAR) -> Comparison:
    """Compares two embeddings of the same recogniser at a false accept rate."""
    return Comparison(similarity=float(a @ b), threshold=recognizer.threshold(far), far=far)


def find_again(reference: Face, faces: Sequence[KnownFace]) -> KnownFace | None:
    """The face at the place where ``reference`` was in another version of the same photo.

    Returns:
        The face whose landmarks' centre is nearest, or ``None`` where that is more than half of the
        reference's size away: then the detector lost it.
    """
    centre = reference.landmarks.mean(0)
    nearest = min(faces, key=lambda known: _distance(centre, known), default=None)
    if nearest is None or _distance(centre, nearest) > reference.size_px / 2:
        return None
    return nearest


def _distance(centre: np.ndarray, known: KnownFace) -> float:
    return float(np.linalg.norm(known.face.landmarks.mean(0) - centre))
