"""Memory that this process and a server on the same host both see, for tensors that need not travel."""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.shared_memory import SharedMemory

import numpy as np
from numpy.typing import NDArray

from ..manifest import TensorSpec
from .base import Tensors
from .retries import Failure, TransportError, with_retries
from .triton_wire import MEMORY_PREFIX

_ALIGNMENT = 64
_UNREGISTER_S = 3.0
# The same, where a request waits for it.
_GIVE_BACK_S = 0.5
# With these answers the server is done with a request's region, if it ever saw it.
_OVER = frozenset({Failure.BUSY, Failure.REFUSED, Failure.UNREACHED})

logger = logging.getLogger(__name__)


class Region:
    """One piece of shared memory and where its tensors lie.

    The memory's name is removed as soon as the server has mapped it: whatever happens to the two processes,
    nothing stays behind.
    """

    def __init__(self, size_bytes: int) -> None:
        # Who knows a region's name can use it, so it must not be guessed.
        self.name = f"{MEMORY_PREFIX}{secrets.token_hex(16)}"
        self.key = f"/{self.name}"
        self._memory = SharedMemory(self.name, create=True, size=size_bytes)
        self.size_bytes = size_bytes
        self._places: dict[str, tuple[int, np.dtype, tuple[int, ...]]] = {}

    def arrange(self, shapes: dict[str, tuple[np.dtype, tuple[int, ...]]]) -> None:
        """Gives every tensor its place, one after the other."""
        offset, self._places = 0, {}
        for name, (dtype, shape) in shapes.items():
            self._places[name] = offset, dtype, shape
            offset += _aligned(dtype.itemsize * math.prod(shape))

    def place(self, name: str) -> tuple[int, int]:
        """Size and offset of a tensor in bytes."""
        offset, dtype, shape = self._places[name]
        return dtype.itemsize * math.prod(shape), offset

    def write(self, name: str, values: NDArray) -> tuple[int, int]:
        """Puts a tensor in its place; its size and offset in bytes."""
        self._view(name)[...] = values
        return self.place(name)

    def read(self, name: str) -> NDArray:
        """A copy of a tensor."""
        return self._view(name).copy()

    def _view(self, name: str) -> NDArray:
        offset, dtype, shape = self._places[name]
        return np.ndarray(shape, dtype, self._memory.buf, offset)

    def unlink(self) -> None:
        """Removes the memory's name; who has mapped it keeps it."""
        self._memory.unlink()

    def close(self) -> None:
        """Gives the memory up."""
        self._memory.close()


class SharedRegions:
    """The regions of one connection: one for each request in flight, used again by later ones.

    Args:
        register: tells the server of a region: name, key, size in bytes, timeout in seconds.
        unregister: makes the server forget one: name, timeout in seconds.
    """

    def __init__(
        self, register: Callable[[str, str, int, float], None], unregister: Callable[[str, float], None]
    ) -> None:
        self._register, self._unregister = register, unregister
        self._lock = threading.Lock()
        self._idle: list[Region] = []
        self._suspect: list[Region] = []

    @contextlib.contextmanager
    def borrow(
        self, inputs: Tensors, outputs: Sequence[TensorSpec], rows: int, timeout_s: float
    ) -> Iterator[Region]:
        """A region with places for the tensors of one request.

        After a failure of which it is not known whether the server has the request, it is not used again: the
        server may still write to it. It is given back as soon as the server lets go of it.

        Raises:
            TransportError: the server does not take the region.
        """
        shapes = {name: (values.dtype, values.shape) for name, values in inputs.items()}
        shapes |= {spec.name: (np.dtype(spec.dtype), (rows, *spec.shape[1:])) for spec in outputs}
        size = sum(_aligned(dtype.itemsize * math.prod(shape)) for dtype, shape in shapes.values())
        region = self._take(size, timeout_s)
        region.arrange(shapes)
        try:
            yield region
        except BaseException as error:
            over = isinstance(error, TransportError) and error.failure in _OVER
            with self._lock:
                (self._idle if over else self._suspect).append(region)
            raise
        with self._lock:
            self._idle.append(region)

    def _take(self, size_bytes: int, timeout_s: float) -> Region:
        self._give_back_suspects(min(timeout_s, _GIVE_BACK_S))
        with self._lock:
            region = self._idle.pop() if self._idle else None
        if region is not None and region.size_bytes >= size_bytes:
            return region
        if region is not None:
            self._forget(region)
        # Doubling, so that a connection registers a few regions and not one for each number of faces.
        region = Region(1 << (size_bytes - 1).bit_length())
        try:
            self._register(region.name, region.key, region.size_bytes, timeout_s)
        except TransportError as error:
            region.close()
            if error.failure is not Failure.REFUSED:
                raise
            raise TransportError(Failure.REFUSED, f"shared memory was not accepted: {error}") from error
        finally:
            region.unlink()
        return region

    def _give_back_suspects(self, timeout_s: float) -> None:
        """Gives up those that the server lets go of, until it does not."""
        with self._lock:
            suspects, self._suspect = self._suspect, []
        while suspects:
            try:
                self._unregister(suspects[-1].name, timeout_s)
            except TransportError as error:  # refused: still in use
                logger.debug("a region of shared memory is kept: %s", error)
                break
            suspects.pop().close()
        with self._lock:
            self._suspect += suspects

    def _forget(self, region: Region) -> None:
        try:  # refused as long as a request that nobody waits for any more still uses it
            with_retries(
                partial(self._unregister, region.name), deadline_s=_UNREGISTER_S, repeat={Failure.REFUSED}
            )
        except TransportError as error:  # a server that is gone has forgotten it already
            logger.info("a region of shared memory was not unregistered: %s", error)
        region.close()

    def close(self) -> None:
        """Takes every region back. Closing twice does nothing."""
        with self._lock:
            regions = [*self._idle, *self._suspect]
            self._idle, self._suspect = [], []
        for region in regions:
            self._forget(region)


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNMENT) * _ALIGNMENT
