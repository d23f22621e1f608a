"""An attack as the runtime's network ``protect``: detection, alignment and paste stay the runtime's."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from runtime.backends import DEFAULT_BACKEND, Backend, BackendFactory, create_backend
from runtime.backends.base import Tensors, check_names, check_rows
from runtime.closing import Closing
from runtime.errors import BackendError

from .base import Attack, Crops

INPUTS = ("faces", "attributes", "strength", "injection")

Progress = Callable[[Iterable[int]], Iterable[int]]


@dataclass
class Meter:
    """What the network ``protect`` did to the crops, and how long it took.

    Attributes:
        seconds: by face, each call's time over its faces.
        mean_levels, max_levels: by face, of its absolute change of 255.
        ssim: of each crop to the clean one; in a photo a small face hides what was done to it.
    """

    seconds: list[float] = field(default_factory=list)
    mean_levels: list[float] = field(default_factory=list)
    max_levels: list[int] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)

    def note(self, before: Crops, after: Crops, seconds: float) -> None:
        """Adds the faces of one call."""
        change = np.abs(after.astype(np.int16) - before).reshape(len(before), -1)
        self.seconds += [seconds / len(before)] * len(before)
        self.mean_levels += change.mean(1).tolist()
        self.max_levels += change.max(1).tolist()
        pairs = zip(before, after, strict=True)
        self.ssim += [float(structural_similarity(*pair, channel_axis=2)) for pair in pairs]


class MeteredBackend(Closing):
    """A bundle's own network with a meter."""

    def __init__(self, backend: Backend, meter: Meter) -> None:
        self._backend = backend
        self._meter = meter

    @property
    def name(self) -> str:
        """See ``Backend.name``."""
        return self._backend.name

    def run(self, inputs: Tensors) -> dict[str, NDArray]:
        """See ``Backend.run``."""
        began = time.monotonic()
        outputs = self._backend.run(inputs)
        self._meter.note(inputs["faces"], outputs["protected"], time.monotonic() - began)
        return outputs

    def close(self) -> None:
        """See ``Backend.close``."""
        self._backend.close()


class AheadBackend(Closing):
    """An attack on many pictures' faces at once: half as long as face by face, and it can be stopped.

    Until ``prepare`` is called it notes the faces that come and leaves them alone; from then on it gives
    them protected, and knows no others.

    Args:
        folder: finished batches are kept there, and not made again.
        seed, meter: see ``Attack`` and ``Meter``.
    """

    name = "attack"

    def __init__(self, attack: Attack, meter: Meter, *, seed: int, folder: Path) -> None:
        self._attack = attack
        self._meter = meter
        self._seed = seed
        self._folder = folder
        self._noted: dict[bytes, Crops] = {}
        self._protected: dict[bytes, Crops] | None = None

    def run(self, inputs: Tensors) -> dict[str, NDArray]:
        """See ``Backend.run``."""
        check_names(inputs, INPUTS)
        check_rows(inputs)
        crops = inputs["faces"]
        if self._protected is None:
            self._noted |= {crop.tobytes(): crop for crop in crops}
            return {"protected": crops}
        try:
            return {"protected": np.stack([self._protected[crop.tobytes()] for crop in crops])}
        except KeyError:
            raise BackendError(
                "expected only faces that were noted before the attack was prepared, found another one; "
                "show it every picture first"
            ) from None

    def prepare(self, batch: int, progress: Progress = iter) -> None:
        """Protects all noted faces, so many at once."""
        faces = list(self._noted.values())
        done: list[Crops] = []
        for start in progress(range(0, len(faces), batch)):
            before = np.stack(faces[start : start + batch])
            done += list(self._batch(before, self._folder / f"{start:05}.npz"))
        self._protected = dict(zip(self._noted, done, strict=True))

    def _batch(self, before: Crops, path: Path) -> Crops:
        if not path.exists():
            began = time.monotonic()
            made = self._attack(before, seed=self._seed)
            seconds = time.monotonic() - began
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial.npz")
            np.savez(partial, before=before, after=made, seconds=seconds)
            os.replace(partial, path)
        with np.load(path) as kept:
            if not np.array_equal(kept["before"], before):
                raise BackendError(f"{path} holds other faces; delete {path.parent}, and they are made again")
            after, seconds = kept["after"], float(kept["seconds"])
        self._meter.note(before, after, seconds)
        return after

    def close(self) -> None:
        """See ``Backend.close``."""


def protect_with(backend: Backend, *, threads: int | None) -> BackendFactory:
    """Makes a runtime use this for the network ``protect``; its other networks stay the bundle's."""

    def make(network: str, model: bytes) -> Backend:
        return backend if network == "protect" else create_backend(DEFAULT_BACKEND, model, threads=threads)

    return make


def metered(meter: Meter, *, threads: int | None) -> BackendFactory:
    """The bundle's own networks, ``protect`` with a meter."""

    def make(network: str, model: bytes) -> Backend:
        own = create_backend(DEFAULT_BACKEND, model, threads=threads)
        return MeteredBackend(own, meter) if network == "protect" else own

    return make
