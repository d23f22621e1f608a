"""Transposed convolutions as sub-pixel convolutions (Shi et al., 2016).

A transposed 4x4 convolution of stride 2 and padding 1 gives, along each axis, for input ``x`` and weights
``w``: ``out[2m] = w1 x[m] + w3 x[m-1]`` and ``out[2m+1] = w2 x[m] + w0 x[m+1]``. Each output pixel sees two
input pixels an axis, so the four pixels that belong to one of the input's are four channels of a plain
convolution at the input's size, put into place afterwards (``DepthToSpace``).
"""

from __future__ import annotations

import copy
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from ..errors import ExportError

SubpixelForm = Literal["2x2", "3x3"]

# By form and parity of the output pixel, which weight of the transposed convolution each tap has, None is 0.
_TAPS: dict[SubpixelForm, tuple[tuple[int | None, ...], ...]] = {
    # Taps x[m-1], x[m], x[m+1]: both parities around the same pixel, a third of the weights is 0.
    "3x3": ((3, 1, None), (None, 2, 0)),
    # Taps x[j-1], x[j]. out[2m] is the even one of j = m, out[2m+1] the odd one of j = m + 1: with the odd
    # one first, all pixels are in order, and one too many on either side.
    "2x2": ((2, 0), (3, 1)),
}


class SubpixelUp(nn.Module):
    """What a ``ConvTranspose2d`` with a 4x4 kernel, stride 2 and padding 1 computes.

    Args:
        transposed: of one group; its weights are copied.
        form: ``2x2`` wastes no multiplication but crops a pixel on every side afterwards; ``3x3`` needs no
            crop, and 20 of the 36 taps of its four pixels are zero.

    Raises:
        ExportError: it is another kind of transposed convolution.
    """

    def __init__(self, transposed: nn.ConvTranspose2d, form: SubpixelForm) -> None:
        super().__init__()
        expected = {"kernel_size": (4, 4), "stride": (2, 2), "padding": (1, 1), "dilation": (1, 1)}
        found = {name: getattr(transposed, name) for name in expected}
        if found != expected or transposed.groups != 1 or transposed.output_padding != (0, 0):
            raise ExportError(
                f"expected a transposed convolution 4x4, stride 2, padding 1, one group, found {transposed}"
            )
        self.form = form
        taps = _TAPS[form]
        size = len(taps[0])
        weight = transposed.weight.detach()  # (in, out, 4, 4)
        channels_in, channels_out = weight.shape[:2]
        spread = weight.new_zeros(channels_out, 2, 2, channels_in, size, size)
        for row, rows in enumerate(taps):
            for column, columns in enumerate(taps):
                for y, source_y in enumerate(rows):
                    for x, source_x in enumerate(columns):
                        if source_y is not None and source_x is not None:
                            spread[:, row, column, :, y, x] = weight[:, :, source_y, source_x].T
        self.conv = nn.Conv2d(
            channels_in, 4 * channels_out, size, padding=1, bias=transposed.bias is not None
        ).to(weight)
        self.conv.weight = nn.Parameter(spread.flatten(0, 2), requires_grad=False)
        if transposed.bias is not None:
            self.conv.bias = nn.Parameter(transposed.bias.detach().repeat_interleave(4), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, C', 2 H, 2 W)``."""
        out = functional.pixel_shuffle(self.conv(x), 2)
        return out if self.form == "3x3" else out[:, :, 1:-1, 1:-1]


def to_subpixel(network: nn.Module, form: SubpixelForm) -> nn.Module:
    """A copy with every transposed convolution as a sub-pixel convolution.

    Raises:
        ExportError: a transposed convolution is not 4x4 of stride 2 and padding 1.
    """
    network = copy.deepcopy(network)
    for parent in [module for module in network.modules() if not isinstance(module, SubpixelUp)]:
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ConvTranspose2d):
                setattr(parent, name, SubpixelUp(child, form))
    return network
