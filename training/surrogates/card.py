"""The card: what must be known of a face recogniser to use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


class SurrogateError(Exception):
    """A recogniser's card or file is missing, malformed, or may not be used for this."""


@dataclass(frozen=True, kw_only=True)
class RecognizerCard:
    """One recogniser.

    Attributes:
        role: ``white-box`` may be trained against, ``black-box`` is for evaluation only.
        size_hw: the network's input height and width.
        box: the input rectangle (x0, y0, x1, y1) in ArcFace's 112x112 frame, stretched to the size.
        source: where the network comes from, a key of ``sources.LOADERS``.
        path: the network's or its weights' file, for the sources that have one.
        weights: the source's own name for the checkpoint, for the sources that have one.
        mean: subtracted from each channel in [0, 1], in the network's colour order.
        std: what each channel is then divided by.
        colour: ``rgb`` or ``bgr``, the order of the network's channels.
        thresholds: cosine by false accept rate; empty where nobody calibrated it.
    """

    name: str
    role: str
    size_hw: tuple[int, int]
    box: tuple[float, float, float, float]
    source: str = "onnx"
    path: Path | None = None
    weights: str | None = None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    colour: str = "rgb"
    thresholds: Mapping[str, float] = field(default_factory=dict)
