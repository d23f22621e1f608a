"""How the numbers of a result are written."""

from __future__ import annotations

from collections.abc import Mapping

# Title and digits of each measure of picture quality.
QUALITY = {
    "l1": ("L1", 4),
    "mse": ("MSE", 4),
    "psnr": ("PSNR, dB", 1),
    "ssim": ("SSIM", 3),
    "lpips_alex": ("LPIPS (AlexNet)", 3),
    "lpips_vgg": ("LPIPS (VGG)", 3),
}


def percent(estimate: Mapping[str, float] | None, digits: int = 0) -> str:
    """A share as ``57 (47-66)``, in percent with its 95 % interval."""
    if estimate is None or estimate["value"] is None:
        return "-"
    value, low, high = (f"{100 * estimate[end]:.{digits}f}" for end in ("value", "low", "high"))
    return f"{value} ({low}-{high})"


def number(estimate: Mapping[str, float] | None, digits: int = 3) -> str:
    """A mean, alone."""
    if estimate is None or estimate["value"] is None:
        return "-"
    return f"{estimate['value']:.{digits}f}"


def number_with_interval(estimate: Mapping[str, float] | None, digits: int = 3) -> str:
    """A mean with its 95 % interval."""
    if estimate is None or estimate["value"] is None or estimate["low"] is None:
        return number(estimate, digits)
    return f"{estimate['value']:.{digits}f} ({estimate['low']:.{digits}f} to {estimate['high']:.{digits}f})"
