"""The precision of an exported network: asked for, delivered, and verified in the produced graph.

=========== ============================= ======================================= ==================
Precision   Weights stored in             Computed in                             Runs on
=========== ============================= ======================================= ==================
fp32        float32                       float32                                 everything
fp16        float16, cast to float32      float32, or what a runtime chooses      everything
fp16-mixed  float16                       float16, picture and ``tanh`` float32   GPUs
bf16-mixed  bfloat16                      bfloat16, picture and ``tanh`` float32  OpenVINO, TensorRT
int8        int8, first and last float32  int8 products, all else float32         OpenVINO
int8-gpu    the same                      the same, activations around zero       TensorRT
=========== ============================= ======================================= ==================

ONNX Runtime folds the casts of ``fp16`` when it loads the network, so that it runs as fast as ``fp32``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from runtime.subpixel import SubpixelForm

from .errors import PrecisionError
from .onnx_graph import OPSET, checked
from .quantization import Activations, not_quantized, quantized_nodes

Precision = Literal["fp32", "fp16", "fp16-mixed", "bf16-mixed", "int8", "int8-gpu"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

# What is stored in float16: weights of convolutions and linear layers. Biases and scales are vectors; they
# weigh nothing, and an error in one of them shifts a whole channel.
MIN_ELEMENTS = 256
MIN_RANK = 2
# Of the name of a weight that is stored in float16 and cast to float32 under its own name.
FP16_SUFFIX = ".fp16"

_FLOAT16_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Gate:
    """Where an exported network is compared with the trained one.

    Attributes:
        backend: what runs it.
        bounds: the precision whose bounds hold there; a backend may compute in less than the file stores.
    """

    backend: str
    bounds: Precision


@dataclass(frozen=True, kw_only=True)
class PrecisionSpec:
    """How a precision is made.

    Attributes:
        dtype: type in which the network is traced.
        opset: of the graph; convolutions know bfloat16 from 22 on.
        upsampling: form that takes the place of transposed convolutions, None to keep them. Neither int8 nor
            TensorRT's bfloat16 knows transposed ones.
        activations: eight-bit type of what convolutions read; None where nothing is quantised.
        gates: what the network is compared in, the first of them without fail.
    """

    dtype: torch.dtype = torch.float32
    opset: int = OPSET
    upsampling: SubpixelForm | None = None
    activations: Activations | None = None
    gates: tuple[Gate, ...]


def _gates(first: str, bounds: Precision, *others: str) -> tuple[Gate, ...]:
    """In what computes in float32, or in the file's own types; in bfloat16 no more can be asked of floats."""
    return tuple(
        Gate(backend, "bf16-mixed" if backend == "openvino-bf16" and bounds != "int8" else bounds)
        for backend in (first, *others)
    )


# Every CPU backend that ``auto`` may take, for a network that loads in it.
SPECS: dict[Precision, PrecisionSpec] = {
    "fp32": PrecisionSpec(gates=_gates("ort-cpu", "fp32", "openvino-bf16", "openvino-fp32")),
    "fp16": PrecisionSpec(gates=_gates("ort-cpu", "fp16", "openvino-bf16", "openvino-fp32")),
    "fp16-mixed": PrecisionSpec(gates=_gates("ort-cpu", "fp16-mixed", "openvino-bf16", "openvino-fp32")),
    # ONNX Runtime's CPU has no bfloat16.
    "bf16-mixed": PrecisionSpec(
        dtype=torch.bfloat16,
        opset=22,
        upsampling="2x2",
        gates=_gates("openvino-bf16", "bf16-mixed", "openvino-fp32"),
    ),
    # A CPU multiplies unsigned by signed numbers, and a range from zero up has twice the steps. TensorRT
    # knows signed ones around zero only, with which OpenVINO is five times as far off as ONNX Runtime.
    "int8": PrecisionSpec(
        upsampling="2x2",
        activations="uint8",
        gates=_gates("openvino-fp32", "int8", "openvino-bf16", "ort-cpu"),
    ),
    "int8-gpu": PrecisionSpec(upsampling="2x2", activations="int8", gates=_gates("ort-cpu", "int8-gpu")),
}

_STORED: dict[Precision, int] = {
    "fp16": TensorProto.FLOAT16,
    "fp16-mixed": TensorProto.FLOAT16,
    "bf16-mixed": TensorProto.BFLOAT16,
}
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


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
        half = name + FP16_SUFFIX
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), half))
        casts.append(helper.make_node("Cast", [half], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *stored.graph.node]
    del stored.graph.node[:]
    stored.graph.node.extend(nodes)
    return checked(stored)


def widen(model: ModelProto) -> ModelProto:
    """A copy without the float16 storage of ``store_fp16``: the same values, as float32 weights."""
    widened = ModelProto()
    widened.CopyFrom(model)
    stored = {weight.name: weight for weight in widened.graph.initializer}
    nodes = []
    for node in widened.graph.node:
        weight = stored.get(node.input[0]) if node.op_type == "Cast" else None
        if weight is None:
            nodes.append(node)
        else:
            values = numpy_helper.to_array(weight).astype(np.float32)
            weight.CopyFrom(numpy_helper.from_array(values, node.output[0]))
    del widened.graph.node[:]
    widened.graph.node.extend(nodes)
    return checked(widened)


def check_precision(model: ModelProto, precision: Precision) -> None:
    """Verifies in the graph that it stores, and where that is asked for computes, in a precision.

    Raises:
        PrecisionError: it does not.
    """
    if wrong := _undelivered(model, precision):
        raise PrecisionError(
            f"asked for {precision}, but it was not delivered for: {', '.join(wrong)}; name the precision "
            "that the network is in"
        )
    if SPECS[precision].activations is not None:
        if not quantized_nodes(model):
            raise PrecisionError(
                f"asked for {precision}, but the graph has no convolution inside to quantise; export in fp16"
            )
    elif precision != "fp32" and not any(_large_weights(model)):
        raise PrecisionError(
            f"asked for {precision}, but no weight has {MIN_ELEMENTS} elements or more, so none was reduced; "
            "export in fp32"
        )


def _undelivered(model: ModelProto, precision: Precision) -> list[str]:
    activations = SPECS[precision].activations
    if activations is not None:
        return not_quantized(model, activations)
    if precision == "fp32":
        return [weight.name for weight in model.graph.initializer if weight.data_type in _FLOATS[1:]]
    large = list(_large_weights(model))
    wrong = [weight.name for weight in large if weight.data_type != _STORED[precision]]
    return wrong if precision == "fp16" else wrong + _widened(model, {weight.name for weight in large})


def _widened(model: ModelProto, weights: set[str]) -> list[str]:
    """Weights that a cast turns into another type before they are used."""
    return [node.input[0] for node in model.graph.node if node.op_type == "Cast" and node.input[0] in weights]


def _large_weights(model: ModelProto) -> Iterator[TensorProto]:
    for tensor in model.graph.initializer:
        large = len(tensor.dims) >= MIN_RANK and int(np.prod(tensor.dims)) >= MIN_ELEMENTS
        if tensor.data_type in _FLOATS and large:
            yield tensor
