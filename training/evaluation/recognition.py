"""Recognisers as strangers run them: uint8 pictures in, thresholds calibrated on the very file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.geometry import box_transform, warp

from ..fingerprint import Fingerprint, onnx_fingerprint
from ..surrogates import RecognizerCard, load_cards, load_recognizer

Embedding = NDArray[np.float32]

_CALIBRATE = "run: python -m benchmarks.efficacy calibrate"


class Embedder(Protocol):
    """What calibration and measurement need of a recogniser."""

    name: str
    sha256: str

    def embed(self, pixels: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> Embedding: ...


class MeasuredEmbedder(Embedder, Protocol):
    """A recogniser of a cards file."""

    card: RecognizerCard

    def fingerprint(self) -> Fingerprint: ...


class OnnxRecognizer:
    """A recogniser in ONNX Runtime, which is what its file is run with elsewhere."""

    def __init__(self, card: RecognizerCard, *, threads: int | None = None) -> None:
        import onnxruntime as ort

        self.card = card
        options = ort.SessionOptions()
        if threads:
            options.intra_op_num_threads = threads
        if card.source != "onnx" or card.path is None:
            raise ValueError(f"{card.name} is from {card.source}: only an ONNX file runs in ONNX Runtime")
        model = card.path.read_bytes()
        self.name = card.name
        self.sha256 = hashlib.sha256(model).hexdigest()
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def fingerprint(self) -> Fingerprint:
        """See ``Recognizer.fingerprint``."""
        assert self.card.path is not None
        return onnx_fingerprint(self.card.path)

    def embed(self, pixels: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> Embedding:
        """Embedding ``(d,)`` of the face with these landmarks ``(5, 2)`` in a picture ``(H, W, 3)``."""
        face = align(pixels, landmarks, self.card)
        ordered = face[..., ::-1] if self.card.colour == "bgr" else face
        normalised = (ordered - np.array(self.card.mean, np.float32)) / np.array(self.card.std, np.float32)
        (embedding,) = self._session.run(None, {self._input: normalised.transpose(2, 0, 1)[None]})
        return embedding[0] / np.linalg.norm(embedding[0])


class TorchRecognizer:
    """A recogniser of another source, in torch; ``sha256`` is of its weights, wherever they came from."""

    def __init__(self, card: RecognizerCard) -> None:
        self.card = card
        self.name = card.name
        self._recognizer = load_recognizer(card)
        digest = hashlib.sha256()
        for key, tensor in self._recognizer.network.state_dict().items():
            digest.update(key.encode() + tensor.contiguous().numpy().tobytes())
        self.sha256 = digest.hexdigest()

    def fingerprint(self) -> Fingerprint:
        """See ``Recognizer.fingerprint``."""
        return self._recognizer.fingerprint()

    def embed(self, pixels: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> Embedding:
        """Embedding ``(d,)`` of the face with these landmarks ``(5, 2)`` in a picture ``(H, W, 3)``."""
        face = torch.from_numpy(align(pixels, landmarks, self.card)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            return self._recognizer.embed(face)[0].numpy()


def align(
    pixels: NDArray[np.uint8], landmarks: NDArray[np.floating], card: RecognizerCard
) -> NDArray[np.float32]:
    """The face at a recogniser's template and size: ``(h, w, 3)`` RGB in [0, 1]."""
    matrix = box_transform(landmarks, card.box, card.size_hw)
    return warp(pixels, matrix, card.size_hw).astype(np.float32) / np.float32(255)


def load_recognizers(cards: Path, *, threads: int | None = None) -> list[OnnxRecognizer | TorchRecognizer]:
    """Every recogniser of a cards file: ONNX files in ONNX Runtime, the others in torch."""
    if threads:
        torch.set_num_threads(threads)
    return [
        OnnxRecognizer(card, threads=threads) if card.source == "onnx" else TorchRecognizer(card)
        for card in load_cards(cards).values()
    ]


@dataclass(frozen=True)
class Thresholds:
    """Cosine thresholds by recogniser and false accept rate, from ``benchmarks.efficacy calibrate``.

    Attributes:
        by_name: of each recogniser, its file's ``sha256`` and its ``threshold`` by false accept rate.
        source: how many pictures and pairs they come from.
    """

    by_name: dict[str, dict[str, Any]]
    source: dict[str, Any]

    def at(self, name: str, far: float) -> float:
        """The cosine above which a fraction ``far`` of impostor pairs lies."""
        return self.by_name[name]["threshold"][str(far)]

    def check(self, embedders: Sequence[Embedder]) -> None:
        """Makes sure that every recogniser was calibrated with the very file at hand.

        Raises:
            ValueError: one was not.
        """
        for embedder in embedders:
            if self.by_name.get(embedder.name, {}).get("sha256") != embedder.sha256:
                raise ValueError(f"no thresholds of this file of {embedder.name!r}; {_CALIBRATE}")


def _calibration(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        missing = {"recognizers", "pictures", "pairs", "seed"} - raw.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no file of thresholds: {error!r}; {_CALIBRATE}") from error
    if missing:
        lacking = ", ".join(sorted(missing))
        raise ValueError(f"{path} is no file of thresholds: it lacks {lacking}; {_CALIBRATE}")
    return raw


def read_thresholds(path: Path) -> Thresholds:
    """Reads what ``benchmarks.efficacy calibrate`` wrote.

    Raises:
        ValueError: the file is something else.
    """
    raw = _calibration(path)
    return Thresholds(raw["recognizers"], {key: raw[key] for key in ("pictures", "pairs", "seed")})
