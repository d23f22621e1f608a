"""What one run did, as a file for Prometheus: the textfile collector of its node exporter reads it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ..errors import ErasableMaskError

STAGES = ("decode", "detect", "align", "network", "paste", "encode")
_FAMILIES = {
    "photos": "Photos that were written.",
    "faces": "Faces in them.",
    "photos_without_face": "Photos in which no face was found.",
    "failures": "Photos that failed for another reason.",
}


class Metrics:
    """Counts and seconds of a run, of all its threads together.

    Args:
        path: where ``write`` puts them, None for nowhere.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._seconds = dict.fromkeys(STAGES, 0.0)

    def count(self, name: str, by: int = 1) -> None:
        """Adds to one of photos, faces, photos_without_face and failures."""
        with self._lock:
            self._counts[name] += by

    @contextlib.contextmanager
    def watch(self, stage: str) -> Iterator[None]:
        """Adds the time inside to a stage."""
        start_s = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._seconds[stage] += time.perf_counter() - start_s

    def write(self) -> None:
        """Writes all of it, whole or not at all: the collector may read at any moment.

        Raises:
            ErasableMaskError: the file cannot be written.
        """
        if (path := self._path) is None:
            return
        lines = []
        for name, meaning in _FAMILIES.items():
            lines += [*_family(name, meaning), f"erasablemask_run_{name} {self._counts[name]}"]
        lines += _family("stage_seconds", "Time in each stage, of all photos together.")
        lines += [
            f'erasablemask_run_stage_seconds{{stage="{stage}"}} {self._seconds[stage]:.6f}'
            for stage in STAGES
        ]
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
            temporary.chmod(0o644)  # the collector is another user
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise ErasableMaskError(f"cannot write {path}: {error.strerror or error}") from error


def _family(name: str, meaning: str) -> list[str]:
    """Gauges, because every run starts from zero."""
    return [f"# HELP erasablemask_run_{name} {meaning}", f"# TYPE erasablemask_run_{name} gauge"]
