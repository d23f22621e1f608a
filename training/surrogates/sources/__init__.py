"""Where recognisers come from: a loader a source.

A loader takes a card and gives a differentiable module ``(N, 3, H, W) -> (N, d)``. What enters it is RGB in
[0, 1] after the card's colour order, mean and std, which ``Recognizer`` applies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from ..card import RecognizerCard
from . import facenet, frbench_zoo, onnx_file

LOADERS: Mapping[str, Callable[[RecognizerCard], nn.Module]] = {
    "onnx": onnx_file.load,
    "facenet-pytorch": facenet.load,
    "frbench": frbench_zoo.load,
}
