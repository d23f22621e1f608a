"""Face recognisers for tests: a tiny network as an ONNX file, and one that looks at colours alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image

from training.fingerprint import Fingerprint
from training.surrogates import RecognizerCard

SIDE = 12


def recognizer_file(path: Path, *, gemm: bool = False) -> Path:
    """Two convolutions and a mean: ``(N, 3, 12, 12) -> (N, 5)``; with ``gemm`` a matrix after them."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(0, 0.3, (8, 3, 3, 3)),
        "b1": rng.normal(0, 0.1, 8),
        "w2": rng.normal(0, 0.3, (5, 8, 3, 3)),
        "b2": rng.normal(0, 0.1, 5),
        "m": np.eye(5),
    }
    nodes = [
        helper.make_node("Conv", ["face", "w1", "b1"], ["c1"]),
        helper.make_node("Tanh", ["c1"], ["t1"]),
        helper.make_node("Conv", ["t1", "w2", "b2"], ["c2"], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["c2"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat" if gemm else "embedding"], axis=1),
    ]
    if gemm:
        nodes.append(helper.make_node("Gemm", ["flat", "m"], ["embedding"]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("face", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 5])],
        [
            onnx.numpy_helper.from_array(v.astype(np.float32), k)
            for k, v in weights.items()
            if k != "m" or gemm
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def card(path: Path, name: str = "tiny") -> RecognizerCard:
    return RecognizerCard(name=name, role="black-box", size_hw=(SIDE, SIDE), box=(0, 0, 112, 112), path=path)


class Colours:
    """Knows a person by their picture's colours on a grid of 4x4."""

    name, sha256 = "colours", "aa"

    def __init__(self) -> None:
        self.card = dataclasses.replace(card(Path("colours.onnx"), "colours"))

    def fingerprint(self) -> Fingerprint:
        return Fingerprint("aa", "bb")

    def embed(self, pixels: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        grid = np.asarray(Image.fromarray(pixels).resize((4, 4), Image.Resampling.BOX), float).ravel()
        return (grid - grid.mean()) / np.linalg.norm(grid - grid.mean())
