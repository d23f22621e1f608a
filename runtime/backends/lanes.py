"""Batches on a CPU: every group of cores its own faces, instead of all cores on the same ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ..closing import Closing
from . import create_backend
from .base import Backend, Tensors, check_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Backends that gain by lanes (docs/serving.md).
IN_LANES = ("ort-cpu", "openvino-fp32", "openvino-bf16")

# Each lane holds the network's weights once more, so there are few.
_LANES = (4, 3, 2, 1)


def create_for_batches(name: str, model: bytes, *, threads: int | None = None) -> Backend:
    """Loads a network for a server, which mostly runs batches; its answers are those of ``create_backend``.

    Args:
        name, model, threads: see ``create_backend``.

    Raises:
        BackendError: as of ``create_backend``.
    """
    if name not in IN_LANES:
        return create_backend(name, model, threads=threads)
    return LanesBackend(lambda share: create_backend(name, model, threads=share), threads=threads)


class LanesBackend(Closing):
    """A network that computes a batch in equal shares, side by side in lanes that divide the threads.

    Threads that share an operation wait for one another after every one of the hundreds that a network has;
    lanes do not. So a batch is done sooner, while a single face is still done by all threads together, like
    the faces that are left over when a batch has no equal shares.

    Args:
        create: makes the network for a number of threads, or None. Its answers must not depend on that
            number, nor on what else is in a batch.
        threads: None for the backend's own choice, and lanes on all cores that this process may use.

    Raises:
        BackendError: the network cannot be made.
    """

    def __init__(self, create: Callable[[int | None], Backend], *, threads: int | None) -> None:
        divided = threads or len(os.sched_getaffinity(0))
        count = next(lanes for lanes in _LANES if divided % lanes == 0)
        self._together = create(threads)
        self._lanes = [create(divided // count) for _ in range(count)] if count > 1 else []
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="lane")
        self.name = self._together.name

    def run(self, inputs: Tensors) -> dict[str, NDArray]:
        """See ``Backend.run``."""
        import numpy as np

        rows, count = check_rows(inputs), len(self._lanes)
        share = rows // count if count else 0
        if share == 0:
            return self._together.run(inputs)
        work = [
            self._pool.submit(lane.run, _rows(inputs, index * share, (index + 1) * share))
            for index, lane in enumerate(self._lanes)
        ]
        parts = [one.result() for one in work]
        if count * share < rows:
            parts.append(self._together.run(_rows(inputs, count * share, rows)))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def close(self) -> None:
        """See ``Backend.close``."""
        self._pool.shutdown()
        for network in (self._together, *self._lanes):
            network.close()


def _rows(inputs: Tensors, start: int, stop: int) -> Tensors:
    return {name: values[start:stop] for name, values in inputs.items()}
