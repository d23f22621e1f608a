"""Means and shares with 95 % intervals, and how they are written down."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959964


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval and the number of samples behind it."""

    value: float
    low: float
    high: float
    count: int

    def clipped(self, low: float, high: float) -> Estimate:
        """With its interval cut to the range the quantity can have."""
        return replace(self, low=max(low, self.low), high=min(high, self.high))


def mean_of(values: NDArray[np.floating]) -> Estimate:
    """Mean with a normal interval; NaN without samples."""
    count = len(values)
    if count == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    mean = float(np.mean(values))
    half = Z_95 * float(np.std(values, ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    return Estimate(mean, mean - half, mean + half, count)


def share_of(hits: NDArray[np.bool_]) -> Estimate:
    """Share of true values with Wilson's interval; NaN without samples."""
    count = len(hits)
    if count == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    share = float(np.mean(hits))
    scale = 1 + Z_95**2 / count
    centre = (share + Z_95**2 / (2 * count)) / scale
    half = Z_95 * math.sqrt(share * (1 - share) / count + Z_95**2 / (4 * count**2)) / scale
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half), count)


def plain(value: Any) -> Any:
    """As JSON holds it: ``Estimate`` as an object, numbers rounded to five digits, NaN as null."""
    if isinstance(value, Estimate):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {key: plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [plain(child) for child in value]
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else None
    return value


def write_json(result: Mapping[str, Any], path: Path) -> None:
    """Writes a result in the form of ``plain``, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(plain(result), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def percent(estimate: Estimate) -> str:
    """A share as ``57 (47-66)``, in percent with its interval."""
    return f"{100 * estimate.value:.0f} ({100 * estimate.low:.0f}-{100 * estimate.high:.0f})"
