"""Quantised before it is moved: a tensor's way from one convolution to the next in a quarter of the bytes."""

from __future__ import annotations

from onnx import ModelProto, helper

from .onnx_graph import checked

# What puts values elsewhere and leaves them as they are, and how many of its first inputs are values.
_MOVES = {"DepthToSpace": 1, "Slice": 1, "Concat": None}


def quantize_before_moves(model: ModelProto) -> ModelProto:
    """A copy whose ``QuantizeLinear`` stand in front of all that only moves their values, which is exact.

    Args:
        model: as ``quantize_int8`` gives it. What is moved for other readers too stays as it is.
    """
    from onnxruntime.quantization.onnx_model import ONNXModel

    copied = ModelProto()
    copied.CopyFrom(model)
    graph = copied.graph
    made_by = {output: node for node in graph.node for output in node.output}
    readers = [name for node in graph.node for name in node.input]
    readers += [value.name for value in graph.output]
    waiting = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    while waiting:
        quantize = waiting.pop()
        move = made_by.get(quantize.input[0])
        if move is None or move.op_type not in _MOVES or readers.count(quantize.input[0]) > 1:
            continue
        for position, source in enumerate(move.input[: _MOVES[move.op_type]]):
            name = f"{quantize.name}_before_{move.name}_{position}"
            earlier = helper.make_node("QuantizeLinear", [source, *quantize.input[1:]], [name], name=name)
            earlier.attribute.extend(quantize.attribute)
            graph.node.append(earlier)
            waiting.append(graph.node[-1])
            move.input[position] = name
        move.output[0] = quantize.output[0]
        made_by[move.output[0]] = move
        graph.node.remove(quantize)
    ordered = ONNXModel(copied)
    ordered.topological_sort()
    return checked(ordered.model)
