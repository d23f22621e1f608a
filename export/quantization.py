"""INT8: weights per channel, activations by the ranges they have on real faces, as Q/DQ pairs in the graph.

Only what convolutions read is quantised. What they give, and so every skip, sum and mix, stays in float:
with outputs quantised, too, a face comes out several levels off on average. Convolutions that read or write a
picture stay in float as well: they are a twentieth of the multiplications, and eight bits at the exit are an
error of two levels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from runtime.backends import create_backend
from runtime.backends.openvino import ACTIVATIONS

from .errors import PrecisionError
from .onnx_graph import checked

Activations = Literal["uint8", "int8"]

_BATCH = 8
_STORED = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8}


def quantize_int8(
    model: ModelProto, inputs: Mapping[str, NDArray], activations: Activations = "uint8"
) -> ModelProto:
    """A copy whose inner convolutions compute in int8 where a runtime knows how.

    Args:
        model: a float32 graph of plain convolutions, with inferred shapes; not changed.
        inputs: every input by name, the same number of rows in each: the faces that set the ranges.
        activations: ``uint8`` over the range from least to greatest value, or ``int8`` over one that is
            symmetric around zero. Weights are symmetric int8.

    Raises:
        PrecisionError: there is nothing to quantise.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import add_infer_metadata

    nodes = quantized_nodes(model)
    if not nodes:
        raise PrecisionError(
            "asked for int8, but the graph has no convolution inside to quantise; export in fp16"
        )
    ranges = activation_ranges(model, sorted({node.input[0] for node in nodes}), inputs)
    copied = ModelProto()
    copied.CopyFrom(model)
    # Says that shapes are inferred. Else the quantizer writes the network, a secret, to disk to infer them.
    add_infer_metadata(copied)
    quantizer = QDQQuantizer(
        copied,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8 if activations == "uint8" else QuantType.QInt8,
        tensors_range=TensorsData(
            CalibrationMethod.MinMax,
            {
                name: TensorData(lowest=np.float32(low), highest=np.float32(high))
                for name, (low, high) in ranges.items()
            },
        ),
        nodes_to_quantize=[node.name for node in nodes],
        nodes_to_exclude=[],
        op_types_to_quantize=["Conv"],
        extra_options={
            "OpTypesToExcludeOutputQuantization": ["Conv"],
            "QuantizeBias": False,
            "ActivationSymmetric": activations == "int8",
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantized = quantizer.model.model
    quantized.producer_name, quantized.producer_version = model.producer_name, model.producer_version
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(model.metadata_props)
    if activations == "int8":
        quantized.metadata_props.add(key=ACTIVATIONS, value=activations)
    return checked(quantized)


def quantized_nodes(model: ModelProto) -> list[NodeProto]:
    """The convolutions between the first and the last of every way through, from picture to picture."""
    nodes = model.graph.node
    ends = _nearest(nodes, _pictures(model.graph.input)) | _nearest(
        [_turned(node) for node in reversed(nodes)], _pictures(model.graph.output)
    )
    return [node for node in nodes if node.op_type == "Conv" and node.name not in ends]


def _pictures(values: Iterable[ValueInfoProto]) -> set[str]:
    return {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.UINT8}


def _turned(node: NodeProto) -> NodeProto:
    return NodeProto(name=node.name, op_type=node.op_type, input=node.output, output=node.input)


def _nearest(nodes: Iterable[NodeProto], start: set[str]) -> set[str]:
    """Names of the convolutions that are reached from some tensors without passing another."""
    reached, found = set(start), set()
    for node in nodes:
        if reached.isdisjoint(node.input):
            continue
        if node.op_type == "Conv":
            found.add(node.name)
        else:
            reached.update(node.output)
    return found


def activation_ranges(
    model: ModelProto, names: list[str], inputs: Mapping[str, NDArray]
) -> dict[str, tuple[float, float]]:
    """Least and greatest value of some tensors inside a graph. Nothing of the graph is written to disk."""
    watched = ModelProto()
    watched.CopyFrom(model)
    given = {value.name for value in watched.graph.output}
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in given
    )
    lows, highs = dict.fromkeys(names, np.inf), dict.fromkeys(names, -np.inf)
    with create_backend("ort-cpu", watched.SerializeToString()) as backend:
        rows = len(next(iter(inputs.values())))
        for start in range(0, rows, _BATCH):
            found = backend.run({name: values[start : start + _BATCH] for name, values in inputs.items()})
            for name in names:
                lows[name] = min(lows[name], float(found[name].min()))
                highs[name] = max(highs[name], float(found[name].max()))
    return {name: (lows[name], highs[name]) for name in names}


def not_quantized(model: ModelProto, activations: Activations) -> list[str]:
    """Names of the inner convolutions whose input or weights are not dequantised from 8 bits."""
    made_by = {output: node for node in model.graph.node for output in node.output}
    stored = {weight.name: weight for weight in model.graph.initializer}

    def is_quantized(name: str, kind: int) -> bool:
        node = made_by.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return False
        return stored[node.input[2]].data_type == kind

    return [
        node.name
        for node in quantized_nodes(model)
        if not is_quantized(node.input[0], _STORED[activations])
        or not is_quantized(node.input[1], TensorProto.INT8)
    ]
