"""How much a picture changed: Table VI's measures that need no pretrained network."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MEASURES = ("l1", "mse", "psnr", "ssim")


def quality_of(source: NDArray[np.uint8], other: NDArray[np.uint8]) -> dict[str, float]:
    """L1 and MSE on [0, 1], PSNR in dB, SSIM, over the whole picture.

    Args:
        source, other: ``(H, W, 3)`` uint8 RGB.
    """
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    difference = (other.astype(np.float64) - source) / 255
    return {
        "l1": float(np.abs(difference).mean()),
        "mse": float((difference**2).mean()),
        "psnr": float(peak_signal_noise_ratio(source, other)),
        "ssim": float(structural_similarity(source, other, channel_axis=2)),
    }
