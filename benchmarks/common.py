"""What the benchmarks share: picture lists, statistics with intervals, and where a result was made."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
Z_95 = 1.959964
VERSIONED = ("numpy", "opencv-python-headless", "onnxruntime", "pillow")


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval and the number of samples behind it."""

    value: float
    low: float
    high: float
    count: int


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


def pictures_below(folder: Path) -> list[Path]:
    """Every picture of a folder and those below it, in the order of their paths.

    Raises:
        ValueError: there is none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    if not found:
        raise ValueError(f"no picture in {folder}")
    return found


def draw(paths: Sequence[Path], count: int, seed: int) -> list[Path]:
    """``count`` of the paths, drawn without replacement by ``seed``, in their own order.

    Raises:
        ValueError: there are fewer.
    """
    if len(paths) < count:
        raise ValueError(f"expected at least {count} pictures, found {len(paths)}")
    chosen = np.random.default_rng(seed).choice(len(paths), count, replace=False)
    return [paths[i] for i in sorted(chosen)]


def environment() -> dict[str, Any]:
    """Commit, processor and versions that a result was made with."""
    root = Path(__file__).parents[1]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40"], cwd=root, capture_output=True, text=True
    ).stdout.strip()
    return {
        "commit": commit or "unknown",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in VERSIONED},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )


def write_json(result: dict[str, Any], path: Path) -> None:
    """Writes a result, ``Estimate`` as an object, numbers rounded to five digits."""

    def plain(value: Any) -> Any:
        if isinstance(value, Estimate):
            return plain(asdict(value))
        if isinstance(value, dict):
            return {key: plain(child) for key, child in value.items()}
        if isinstance(value, list | tuple):
            return [plain(child) for child in value]
        return round(value, 5) if isinstance(value, float) else value

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain(result), indent=2, allow_nan=True) + "\n", encoding="utf-8")
    sys.stderr.write(f"written: {path}\n")
