"""How alike two pictures look, and whose tones one has. Pictures are ``(N, 3, S, S)`` in [-1, 1]."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Of SSIM's Gaussian window (Wang et al., 2004), in pixels.
SSIM_WINDOW = 11
# Cells a side whose means are the low frequencies of a picture.
TONE_CELLS = 8


def ssim(picture: Tensor, source: Tensor, weight: Tensor | None = None) -> Tensor:
    """SSIM of each pair (Wang et al., 2004), by kornia, mean over the colours.

    Args:
        weight: ``(S, S)`` >= 0, how much each pixel counts; None for all alike.

    Returns:
        ``(N,)`` in [-1, 1]; 1 for equal pictures.
    """
    from kornia.metrics import ssim as ssim_map  # heavy, and only training needs it

    with torch.autocast(picture.device.type, enabled=False):
        found = ssim_map((picture + 1) / 2, (source + 1) / 2, SSIM_WINDOW).mean(1)
    if weight is None:
        return found.flatten(1).mean(1)
    weight = weight.to(found)
    return (found * weight).flatten(1).sum(1) / weight.sum()


def structure_loss(picture: Tensor, source: Tensor, weight: Tensor | None = None) -> Tensor:
    """``1 - SSIM``, mean over the batch; in [0, 2], 0 for equal pictures."""
    return (1 - ssim(picture, source, weight)).mean()


def similarity_loss(picture: Tensor, source: Tensor, bound: float, weight: Tensor | None = None) -> Tensor:
    """``max(0, SSIM - bound)``, mean over the batch; lower = less alike.

    Returns:
        A number in [0, 1 - bound]; 0 once no pair is more alike than ``bound``.
    """
    return (ssim(picture, source, weight) - bound).clamp_min(0).mean()


def tone_loss(picture: Tensor, tone: Tensor, bound: float) -> Tensor:
    """``max(0, RMS(low(picture) - low(tone)) - bound)``, mean over the batch; ``low`` are means of cells.

    Args:
        tone: ``(N, 3, S, S)``, the tones that the picture is to have.
        bound: difference up to which a picture is free.

    Returns:
        A number >= 0; 0 once every picture has its tones.
    """
    difference = functional.adaptive_avg_pool2d(picture - tone, TONE_CELLS)
    square = difference.flatten(1).square().mean(1)
    return (torch.sqrt(square.clamp_min(1e-12)) - bound).clamp_min(0).mean()
