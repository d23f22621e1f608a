"""What the convolutions of a parsed TensorRT network compute in.

A strongly typed network is built with the types that it has when it is parsed.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from .errors import PrecisionError

_DTYPES = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16"}

# Of the layers that are wrong, how many a message names.
_NAMED = 5


def check_network_precision(trt: ModuleType, network: Any, precision: str, model: bytes) -> None:
    """Verifies the precision of every convolution of a ``trt.INetworkDefinition``.

    Args:
        trt: the library.
        network: parsed from ``model``.
        precision: ``fp32``, ``fp16``, ``bf16``: what enters and leaves them; ``int8``: what the inner ones
            read, see ``quantized_nodes``, is dequantised from int8 right before them.
        model: the ONNX file's bytes.

    Raises:
        PrecisionError: a convolution computes in another precision, or there is none to verify.
    """
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    kinds = (trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION)
    convolutions = {layer.name: layer for layer in layers if layer.type in kinds}
    if not convolutions:
        raise PrecisionError(
            f"asked for {precision}, but the network has no convolution to verify it on; build another"
        )
    if precision == "int8":
        inner = _inner(model)
        convolutions = {name: layer for name, layer in convolutions.items() if name in inner}
        if not convolutions:
            raise PrecisionError(
                "asked for int8, but the network has no convolution inside to verify it on; build it in fp32"
            )
        whole = _dequantized(trt, layers)
        found = {
            name: {_dtype(layer.get_input(i), whole) for i in range(2)}
            for name, layer in convolutions.items()
        }
        demanded = "INT8"
    else:
        found = {name: _dtypes(layer) for name, layer in convolutions.items()}
        demanded = _DTYPES[precision]
    wrong = [f"{name} ({', '.join(sorted(types))})" for name, types in found.items() if types != {demanded}]
    if wrong:
        raise PrecisionError(
            f"asked for {precision}, that is {demanded}, but {len(wrong)} of {len(found)} convolutions have "
            f"other types: {', '.join(wrong[:_NAMED])}{', ...' if len(wrong) > _NAMED else ''}; TensorRT "
            "computes in the types of the ONNX graph, convert that"
        )


def _inner(model: bytes) -> set[str]:
    """Names of a graph's inner convolutions. Whoever serves plans in other precisions needs no ONNX."""
    import onnx

    from .quantization import quantized_nodes

    return {node.name for node in quantized_nodes(onnx.load_from_string(model))}


def _dtypes(layer: Any) -> set[str]:
    """Names of the types that enter and leave a layer; a convolution's own weights have its input's."""
    ends = [layer.get_input(i) for i in range(layer.num_inputs)]
    ends += [layer.get_output(i) for i in range(layer.num_outputs)]
    return {tensor.dtype.name for tensor in ends if tensor is not None}


def _dequantized(trt: ModuleType, layers: list[Any]) -> dict[str, str]:
    """Tensors that a layer dequantises, with the type they had before."""
    return {
        layer.get_output(0).name: layer.get_input(0).dtype.name
        for layer in layers
        if layer.type == trt.LayerType.DEQUANTIZE
    }


def _dtype(tensor: Any, dequantized: dict[str, str]) -> str:
    """Type that a convolution reads, before it was dequantised; a missing tensor is a weight of its own."""
    return "FLOAT" if tensor is None else dequantized.get(tensor.name, tensor.dtype.name)
