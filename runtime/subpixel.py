"""A transposed convolution's weights as those of a sub-pixel convolution (Shi et al., 2016).

A transposed 4x4 convolution of stride 2 and padding 1 gives, along each axis, for input ``x`` and weights
``w``: ``out[2m] = w1 x[m] + w3 x[m-1]`` and ``out[2m+1] = w2 x[m] + w0 x[m+1]``. Each output pixel sees two
input pixels an axis, so the four pixels that belong to one of the input's are four channels of a plain
convolution at the input's size, put into place afterwards (``DepthToSpace``).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

# ``2x2`` wastes no multiplication, but a pixel on every side must be cropped afterwards; ``3x3`` needs no
# crop, and 20 of the 36 taps of its four pixels are zero.
SubpixelForm = Literal["2x2", "3x3"]

# By form and parity of the output pixel, which weight of the transposed convolution each tap has, None is 0.
_TAPS: dict[SubpixelForm, tuple[tuple[int | None, ...], ...]] = {
    # Taps x[m-1], x[m], x[m+1]: both parities around the same pixel, a third of the weights is 0.
    "3x3": ((3, 1, None), (None, 2, 0)),
    # Taps x[j-1], x[j]. out[2m] is the even one of j = m, out[2m+1] the odd one of j = m + 1: with the odd
    # one first, all pixels are in order, and one too many on either side.
    "2x2": ((2, 0), (3, 1)),
}


def subpixel_weights(weight: NDArray[np.floating], form: SubpixelForm) -> NDArray[np.floating]:
    """The weights of a plain convolution of stride 1 and padding 1.

    Args:
        weight: ``(C, C', 4, 4)`` of a transposed convolution of stride 2, padding 1 and one group.
        form: the size ``k`` of the result.

    Returns:
        ``(4 C', C, k, k)``, of ``weight``'s type; the four pixels of a channel lie side by side, row by row.
    """
    taps = _TAPS[form]
    size = len(taps[0])
    channels_in, channels_out = weight.shape[:2]
    spread = np.zeros((channels_out, 2, 2, channels_in, size, size), weight.dtype)
    for row, rows in enumerate(taps):
        for column, columns in enumerate(taps):
            for y, source_y in enumerate(rows):
                for x, source_x in enumerate(columns):
                    if source_y is not None and source_x is not None:
                        spread[:, row, column, :, y, x] = weight[:, :, source_y, source_x].T
    return spread.reshape(4 * channels_out, channels_in, size, size)
