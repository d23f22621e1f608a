"""The precision of an exported graph: asked for, delivered, and verified in the produced graph.

``fp16`` is a precision of storage: weights are kept as float16 and cast to float32 where they enter the
graph, and everything is computed in float32. ONNX Runtime folds the casts when it loads the network, so
that it runs as fast as the float32 one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from .errors import PrecisionError
from .onnx_graph import checked

Precision = Literal["fp32", "fp16"]

# What is stored in float16: weights of convolutions and linear layers. Biases and scales are vectors; they
# weigh nothing, and an error in one of them shifts a whole channel.
MIN_ELEMENTS = 256
MIN_RANK = 2

_FLOAT16_MAX = float(np.finfo(np.float16).max)


def to_precision(model: ModelProto, precision: Precision) -> ModelProto:
    """The model in a precision, verified.

    Args:
        model: a float32 graph; not changed.

    Raises:
        PrecisionError: a weight is outside float16's range, or the precision was not delivered.
    """
    converted = store_fp16(model) if precision == "fp16" else model
    check_precision(converted, precision)
    return converted


def store_fp16(model: ModelProto) -> ModelProto:
    """A copy whose large weights are float16 with a cast to float32 behind them.

    Raises:
        PrecisionError: a weight is infinite, not a number, or beyond +-65504.
    """
    stored = ModelProto()
    stored.CopyFrom(model)
    casts = []
    for weight in _large_weights(stored):
        values = numpy_helper.to_array(weight)
        if not (np.abs(values) <= _FLOAT16_MAX).all():
            raise PrecisionError(
                f"the weight {weight.name!r} does not fit float16: expected all values within "
                f"+-{_FLOAT16_MAX:.0f}, found up to {np.abs(values).max():g}; export in fp32"
            )
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.fp16"))
        casts.append(
            helper.make_node("Cast", [f"{name}.fp16"], [name], name=f"{name}.cast", to=TensorProto.FLOAT)
        )
    nodes = [*casts, *stored.graph.node]
    del stored.graph.node[:]
    stored.graph.node.extend(nodes)
    return checked(stored)


def check_precision(model: ModelProto, precision: Precision) -> None:
    """Verifies in the graph that its weights are stored as asked.

    Raises:
        PrecisionError: they are not.
    """
    half = [tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16]
    single = [weight.name for weight in _large_weights(model)]
    wrong = half if precision == "fp32" else single
    if wrong:
        raise PrecisionError(f"asked for {precision}, but it was not delivered for: {', '.join(wrong)}")
    if precision == "fp16" and not half:
        raise PrecisionError(
            f"asked for fp16, but no weight has {MIN_ELEMENTS} elements or more, so none was reduced"
        )


def _large_weights(model: ModelProto) -> Iterator[TensorProto]:
    for tensor in model.graph.initializer:
        large = len(tensor.dims) >= MIN_RANK and int(np.prod(tensor.dims)) >= MIN_ELEMENTS
        if tensor.data_type == TensorProto.FLOAT and large:
            yield tensor
