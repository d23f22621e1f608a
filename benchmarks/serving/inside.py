"""What a running server says of the time that requests spend inside it."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

from .served import Running

# Triton's phases of a request. "Infer" is all that the network's process does, with the way there and back.
_PHASES = ("queue", "compute_input", "compute_infer", "compute_output")
# The process's own metrics come with the first batch after a second.
_REPORTED_S = 1.1
_STAGE = re.compile(r'^erasablemask_stage_seconds_total{model="(\w+)",stage="(\w+)"} (\S+)$', re.MULTILINE)
_BATCHES = re.compile(r'^erasablemask_batches_total{model="(\w+)"} (\S+)$', re.MULTILINE)


class Inside:
    """Means over what is asked between ``begin`` and ``end``, by phase.

    Args:
        answering: a server that was started ``watched``.
    """

    def __init__(self, answering: Running) -> None:
        if answering.metrics_port is None:
            raise ValueError("expected a server with metrics, found one without; start it watched")
        self._answering, self._port = answering, answering.metrics_port
        self._before: tuple[Mapping[str, float], Mapping[str, float]] = {}, {}

    def begin(self, ask: Callable[[], Any]) -> None:
        """Begins to count. ``ask`` sends a request that brings the metrics up to date."""
        self._before = self._counts(ask)

    def end(self, ask: Callable[[], Any]) -> dict[str, float]:
        """Milliseconds of a request in Triton's phases, of a batch in those of the network's process."""
        found: dict[str, float] = {}
        for before, after in zip(self._before, self._counts(ask), strict=True):
            count = after["count"] - before["count"]
            found |= {name: 1e3 * (after[name] - before[name]) / count for name in after if name != "count"}
        return found

    def _counts(self, ask: Callable[[], Any]) -> tuple[dict[str, float], dict[str, float]]:
        """Seconds and counts so far: Triton's of requests, and the network's process's of batches."""
        time.sleep(_REPORTED_S)
        ask()
        stats = self._answering.statistics()["inference_stats"]
        triton = {name: float(stats[name].get("ns", 0)) / 1e9 for name in _PHASES}
        triton["count"] = float(stats["success"].get("count", 0))
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        asked = self._answering.model
        stages = {name: float(value) for model, name, value in _STAGE.findall(text) if model == asked}
        (batches,) = (float(value) for model, value in _BATCHES.findall(text) if model == asked)
        return triton, {**stages, "count": batches}
