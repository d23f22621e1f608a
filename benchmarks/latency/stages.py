"""One photo's way from file to file, timed by stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.pictures import read_picture, write_picture
from runtime.results import AnonymiseResult, EraseResult, ProtectResult

Work = Callable[[NDArray[np.uint8]], ProtectResult | EraseResult | AnonymiseResult]

# ``rest`` is what no stage covers: attribute vectors, reports, the way between the stages.
STAGES = ("decode", "detect", "align", "network", "paste", "encode", "rest")


class StageClock:
    """Milliseconds by stage; ``watch`` is what a pipeline takes as such."""

    def __init__(self) -> None:
        self._ms: dict[str, float] = {}

    @contextmanager
    def watch(self, stage: str) -> Iterator[None]:
        """Adds the time inside to a stage."""
        start_s = time.perf_counter()
        try:
            yield
        finally:
            self._ms[stage] = self._ms.get(stage, 0.0) + 1e3 * (time.perf_counter() - start_s)

    def collect(self) -> dict[str, float]:
        """What was added up, and begins again from nothing."""
        collected, self._ms = self._ms, {}
        return collected


def time_photo(work: Work, source: Path, target: Path, clock: StageClock) -> dict[str, float]:
    """Reads, works on and writes one photo, as ``erasablemask protect`` and the like do.

    Args:
        clock: the one that the pipeline behind ``work`` watches its stages with.

    Returns:
        Milliseconds of every stage of ``STAGES``, and their sum, ``total``.

    Raises:
        ErasableMaskError: the photo cannot be read or written, or shows no face.
    """
    clock.collect()
    start_s = time.perf_counter()
    with clock.watch("decode"):
        picture = read_picture(source)
    result = work(picture.pixels)
    with clock.watch("encode"):
        write_picture(picture, result.pixels, target, overwrite=True)
    total = 1e3 * (time.perf_counter() - start_s)
    stages = clock.collect()
    return {**stages, "rest": total - sum(stages.values()), "total": total}


def spread(times_ms: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles, the slow end, and how many."""
    low, middle, high, p95, p99 = (float(q) for q in np.quantile(times_ms, (0.25, 0.5, 0.75, 0.95, 0.99)))
    return {"median": middle, "quartiles": [low, high], "p95": p95, "p99": p99, "calls": len(times_ms)}


def spread_of_stages(calls: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """``total_ms`` and ``stages_ms`` of many calls of ``time_photo``."""
    return {
        "total_ms": spread([call["total"] for call in calls]),
        "stages_ms": {stage: spread([call[stage] for call in calls]) for stage in STAGES},
    }
