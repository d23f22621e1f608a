"""Any ONNX file, made differentiable by onnx2torch."""

from __future__ import annotations

import warnings

from torch import nn

from ..card import RecognizerCard, SurrogateError
from .optional import require


def load(card: RecognizerCard) -> nn.Module:
    """Loads the card's file.

    Raises:
        SurrogateError: the file is missing or has an operator that cannot be differentiated.
    """
    onnx = require("onnx", card, "erasablemask[train]")
    onnx2torch = require("onnx2torch", card, "erasablemask[train]")
    try:
        graph = onnx.load(card.path)
    except OSError as error:
        raise SurrogateError(f"{card.name}: cannot read {card.path}: {error}") from error
    try:
        network = onnx2torch.convert(graph)
    except NotImplementedError as error:
        raise SurrogateError(f"{card.name}: {card.path} cannot be made differentiable: {error}") from error
    # onnx2torch indexes with lists, which torch deprecates; nothing here can change that.
    warnings.filterwarnings("ignore", message="Using a non-tuple sequence", category=UserWarning)
    return network
