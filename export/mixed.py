"""Mixed precision: a network that computes in half precision, but for what is lost there."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from .errors import PrecisionError


class _ToFloat(nn.Module):
    """Float32 from here on."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float()


def computing_in(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy that computes in another type and keeps in float32 what would show in the picture.

    In float32 stay the way in and out (``export.wrappers``: normalisation, rounding, probabilities), the last
    activation, ``tanh``, and what follows it: near +-1 a bfloat16 step is half a level of the picture.

    Args:
        module: an export wrapper, in evaluation mode, without batch norms.
        dtype: ``float16`` or ``bfloat16``.

    Raises:
        PrecisionError: a weight does not fit the type.
    """
    module = copy.deepcopy(module).to(dtype)
    if wrong := [name for name, weight in module.named_parameters() if not weight.isfinite().all()]:
        raise PrecisionError(f"these weights do not fit {dtype}: {', '.join(wrong)}; export in fp32")
    for parent in [part for part in module.modules() if isinstance(part, nn.Sequential)]:
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Tanh):
                setattr(parent, name, nn.Sequential(_ToFloat(), child))
    return module
