"""FRBench's models by their key, such as ``mobilefacenet_arcface_ms1m``, through its documented interface.

Written against frbench 1.1.3. It keeps its downloads in its own cache (environment: FRBENCH_CACHE), with a
checksum each.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..card import RecognizerCard, SurrogateError
from .optional import require


class FRBenchNetwork(nn.Module):
    """A pipeline of FRBench without its detection, alignment and flip averaging: faces come aligned."""

    def __init__(self, pipeline: Any) -> None:
        super().__init__()
        self.pipeline = pipeline

    def forward(self, face: Tensor) -> Tensor:
        """``(N, 3, H, W)`` RGB in [0, 1] to ``(N, d)``; FRBench takes [0, 255] and normalises itself."""
        return self.pipeline(face * 255, need_crop=False, tta=()).embeddings


def load(card: RecognizerCard) -> nn.Module:
    """Loads the model that ``weights`` names, downloaded by FRBench on first use.

    Raises:
        SurrogateError: the package or the model is missing, or the card does not fit it.
    """
    frbench = require("frbench", card, "frbench")
    if (card.mean, card.std, card.colour) != (RecognizerCard.mean, RecognizerCard.std, RecognizerCard.colour):
        raise SurrogateError(f"{card.name}: FRBench normalises by itself; leave mean, std and colour out")
    key = (card.weights or "").rsplit("_", 2)
    if len(key) != 3 or card.path is not None:
        raise SurrogateError(
            f"{card.name}: expected weights BACKBONE_LOSS_DATASET (see: frbench-download --list-models) and "
            f"no file, found {card.weights!r} and {card.path}"
        )
    try:
        with frbench.configure_scoped(update_check=False):  # it would ask PyPI
            pipeline = frbench.FR(*key, eager_load=True)
    except frbench.FRBenchError as error:
        raise SurrogateError(f"{card.name}: FRBench cannot load {card.weights}: {error}") from error
    if tuple(pipeline.input_size) != card.size_hw:
        raise SurrogateError(f"{card.name}: expected size {list(pipeline.input_size)}, found {card.size_hw}")
    return FRBenchNetwork(pipeline)
