"""How plainly a change of a picture shows, after what is known of contrast masking and pooling."""

from __future__ import annotations

import torch
from torch import Tensor

# Of the Gaussian window in which contrast masks, in pixels: the width of a lid or a lip of a 128 px crop.
WINDOW_SIGMA = 2.0
# Standard deviation of luminance, in [-1, 1], that halves a change's visibility: that of hair, not of skin.
MASKING_CONTRAST = 0.2
# Of the pooling over pixels (Watson 1993, "DCTune"): a few plain pixels outweigh many faint ones.
POOLING_EXPONENT = 4


def visibility_loss(picture: Tensor, reference: Tensor) -> Tensor:
    """``max(mean_p |v_p|^4, 1e-16)^(1/4)``, of ``v = (Y(picture) - Y(reference)) / (1 + std / 0.2)``.

    ``std`` is the local standard deviation of ``Y(reference)``, in a Gaussian window.
    Not in the paper. Eq. 8's norm costs a shadow on smooth skin no more than the same change spread over
    hair and lashes, and LPIPS hardly more; people see the shadow first.

    Args:
        picture, reference: ``(N, 3, S, S)`` in [-1, 1]; luminance Y is the mean of the colours.

    Returns:
        A number from 1e-4, for equal luminance, where its gradient is 0, to 2; mean over the batch.
    """
    luminance = reference.mean(1, keepdim=True)
    visible = (picture.mean(1, keepdim=True) - luminance) / (1 + _local_std(luminance) / MASKING_CONTRAST)
    pooled = visible.flatten(1).pow(POOLING_EXPONENT).mean(1)
    return pooled.clamp_min(1e-16).pow(1 / POOLING_EXPONENT).mean()


def _local_std(luminance: Tensor) -> Tensor:
    from kornia.filters import gaussian_blur2d  # heavy, and only training needs it

    side = 2 * int(3 * WINDOW_SIGMA) + 1

    def blur(picture: Tensor) -> Tensor:
        return gaussian_blur2d(picture, (side, side), (WINDOW_SIGMA, WINDOW_SIGMA), border_type="replicate")

    with torch.autocast(luminance.device.type, enabled=False):  # a difference of squares in bfloat16 is noise
        variance = blur(luminance.square()) - blur(luminance).square()
    return variance.clamp_min(1e-12).sqrt()
