"""Transposed convolutions as sub-pixel convolutions; see ``runtime.subpixel`` for why they are the same."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from runtime.subpixel import SubpixelForm, subpixel_weights

from ..errors import ExportError


class SubpixelUp(nn.Module):
    """What a ``ConvTranspose2d`` of a 4x4 kernel, stride 2 and padding 1, and an activation after it compute.

    The activation comes before the pixels are put into place, where a runtime joins it with the convolution.

    Args:
        transposed: of one group; its weights are copied.
        form: see ``runtime.subpixel``.
        activation: of each value by itself.

    Raises:
        ExportError: it is another kind of transposed convolution.
    """

    def __init__(
        self, transposed: nn.ConvTranspose2d, form: SubpixelForm, activation: nn.Module | None = None
    ) -> None:
        super().__init__()
        expected = {"kernel_size": (4, 4), "stride": (2, 2), "padding": (1, 1), "dilation": (1, 1)}
        found = {name: getattr(transposed, name) for name in expected}
        if found != expected or transposed.groups != 1 or transposed.output_padding != (0, 0):
            raise ExportError(
                f"expected a transposed convolution 4x4, stride 2, padding 1, one group, found {transposed}"
            )
        self.form = form
        self.activation = activation or nn.Identity()
        weight = torch.from_numpy(subpixel_weights(transposed.weight.detach().numpy(), form))
        channels_out, channels_in, size, _ = weight.shape
        self.conv = nn.Conv2d(
            channels_in, channels_out, size, padding=1, bias=transposed.bias is not None
        ).to(weight)
        self.conv.weight = nn.Parameter(weight, requires_grad=False)
        if transposed.bias is not None:
            self.conv.bias = nn.Parameter(transposed.bias.detach().repeat_interleave(4), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, C', 2 H, 2 W)``."""
        return self.placed(self.values(x))

    def values(self, x: Tensor) -> Tensor:
        """Every pixel's value, the four that belong together as channels."""
        return self.activation(self.conv(x))

    def placed(self, values: Tensor) -> Tensor:
        """The pixels of ``values`` in their places."""
        out = functional.pixel_shuffle(values, 2)
        return out if self.form == "3x3" else out[:, :, 1:-1, 1:-1]


def to_subpixel(network: nn.Module, form: SubpixelForm) -> nn.Module:
    """A copy with every transposed convolution as a sub-pixel convolution.

    Raises:
        ExportError: a transposed convolution is not 4x4 of stride 2 and padding 1.
    """
    network = copy.deepcopy(network)
    for parent in [module for module in network.modules() if not isinstance(module, SubpixelUp)]:
        for name, child in list(parent.named_children()):
            match list(child.children()):
                case [nn.ConvTranspose2d() as transposed, nn.ReLU() | nn.Tanh() as activation]:
                    setattr(parent, name, SubpixelUp(transposed, form, activation))
            if isinstance(child, nn.ConvTranspose2d):
                setattr(parent, name, SubpixelUp(child, form))
    return network
