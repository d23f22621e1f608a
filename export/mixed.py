"""Mixed precision: a network that computes in half precision, but for what is lost there.

In float32 stay the way in from a picture, the way out to one, probabilities, and the last activation,
``tanh``: near +-1 a bfloat16 step is half a level of the picture. float16 is had by converting a graph, with
ONNX Runtime's converter, so that a bundle is enough. For bfloat16 there is none: the network is traced in it.
"""

from __future__ import annotations

import copy

import torch
from onnx import ModelProto
from torch import Tensor, nn

from .errors import PrecisionError
from .onnx_graph import checked

_FLOAT32_OPS = ["Div", "Tanh", "Sigmoid", "Round", "Clip"]


def to_fp16(model: ModelProto) -> ModelProto:
    """A copy that computes in float16; its inputs and outputs keep their types.

    Args:
        model: a float32 graph with inferred shapes.
    """
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copied = ModelProto()
    copied.CopyFrom(model)
    half = ONNXModel(
        convert_float_to_float16(
            copied, keep_io_types=True, op_block_list=_FLOAT32_OPS, disable_shape_infer=True
        )
    )
    half.topological_sort()  # the converter leaves its casts at the end
    return checked(half.model)


class _ToFloat(nn.Module):
    """Float32 from here on."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float()


def computing_in(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy that computes in another type, see above.

    Args:
        module: an export wrapper, in evaluation mode, without batch norms.
        dtype: such as ``bfloat16``.

    Raises:
        PrecisionError: a weight does not fit the type.
    """
    module = copy.deepcopy(module).to(dtype)
    if wrong := [name for name, weight in module.named_parameters() if not weight.isfinite().all()]:
        raise PrecisionError(f"these weights do not fit {dtype}: {', '.join(wrong)}; export in fp32")
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Tanh):
                setattr(parent, name, nn.Sequential(_ToFloat(), child))
    return module
