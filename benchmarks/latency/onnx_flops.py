"""How many floating-point operations an ONNX graph takes for one face, counted as PyTorch's counter does."""

from __future__ import annotations

import math

import onnx


def flops_per_face(model: bytes) -> int:
    """Two operations for each multiplication with an addition, of all convolutions and matrix products.

    Args:
        model: the bytes of an ONNX file whose every input and output has the batch as its first side.

    Raises:
        ValueError: a product's shape cannot be told, or the graph has a kind of product not counted here.
    """
    graph = onnx.load_from_string(model)
    for value in (*graph.graph.input, *graph.graph.output):
        side = value.type.tensor_type.shape.dim[0]
        side.Clear()
        side.dim_value = 1
    inferred = onnx.shape_inference.infer_shapes(graph, strict_mode=True, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    return sum(_flops_of(node, shapes) for node in inferred.node)


def _flops_of(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    if node.op_type == "Conv":  # each output is a product with a filter: (out, in / groups, height, width)
        counted, filters = node.output[0], node.input[1]
        per_value = _product(node, shapes, filters) // shapes[filters][0]
    elif node.op_type == "ConvTranspose":  # each input goes to a filter's worth: (in, out / groups, ...)
        counted, filters = node.input[0], node.input[1]
        per_value = _product(node, shapes, filters) // shapes[filters][0]
    elif node.op_type in ("MatMul", "Gemm"):
        counted, left = node.output[0], node.input[0]
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        _product(node, shapes, left)
        per_value = shapes[left][0 if transposed else -1]
    elif "Conv" in node.op_type or "MatMul" in node.op_type:
        raise ValueError(f"expected float convolutions and matrix products, found {node.op_type}")
    else:
        return 0
    return 2 * _product(node, shapes, counted) * per_value


def _product(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]], name: str) -> int:
    size = math.prod(shapes.get(name, (0,)))
    if size == 0:
        raise ValueError(f"the shape of {name!r} at {node.op_type} {node.name!r} is not known")
    return size
