"""What gRPC and HTTP to a Triton server have in common: types, shapes, and the meaning of its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from numpy.typing import NDArray

from ..manifest import TensorSpec
from .base import Tensors
from .retries import Failure

# A manifest's dtype -> Triton's, for the types that the networks use.
DATA_TYPES = {"uint8": "UINT8", "float32": "FP32"}

# Names that clients give their shared memory, as a regular expression; a server's door takes no others.
MEMORY_PREFIX = "erasablemask-client-"
MEMORY_NAME = f"{MEMORY_PREFIX}[0-9a-f]{{32}}"

# What Triton says when the queue is full, and when a request waited in it for too long; what a door says.
_BUSY = ("exceeds maximum queue size", "timeout expired", "busy; try again", "concurrent rpc limit")
# A killed Python stub; a model that is being loaded again; a region of shared memory that was registered
# with a server that has since been started again; a call that gRPC broke off; and a batch that another
# client's request spoilt: over gRPC Triton counts one of shape (0, 128, ...) as 128 rows, and fails all
# requests that it was fused with.
_BROKEN = (
    "is not healthy",
    "has no available versions",
    "unable to find shared memory region",
    "rst_stream",
    "max allowed is",
)
# What needs a token that only the server's own supervisor has; Triton calls even that UNAVAILABLE.
_FORBIDDEN = ("protocol is restricted",)


@dataclass(frozen=True, kw_only=True)
class Tls:
    """PEM files.

    Attributes:
        ca: certificates that the server's must come from, None for the system's.
        certificate: the client's own, with its chain, None for none.
        key: its private key.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model as its server describes it: name -> Triton's type and shape, -1 being the batch."""

    inputs: Mapping[str, tuple[str, tuple[int, ...]]]
    outputs: Mapping[str, tuple[str, tuple[int, ...]]]


class Transport(Protocol):
    """A way to one server, for several threads at once."""

    def served(self, network: str, timeout_s: float) -> ServedModel:
        """How the server describes a model.

        Raises:
            TransportError: there is no answer, or no such model.
        """
        ...

    def infer(
        self, network: str, inputs: Tensors, outputs: Sequence[TensorSpec], timeout_s: float
    ) -> dict[str, NDArray]:
        """Sends one request.

        Raises:
            TransportError: there is no answer, or it is an error.
        """
        ...

    def close(self) -> None:
        """Closes the connections. Closing twice does nothing."""
        ...


def served_tensors(specs: Sequence[TensorSpec]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """A manifest's tensors as a server describes them.

    Raises:
        KeyError: a dtype that no network of a bundle has.
    """
    return {spec.name: (DATA_TYPES[spec.dtype], spec.shape) for spec in specs}


def failure_of(status: str, message: str) -> Failure:
    """The kind of an error.

    Args:
        status: gRPC's name, such as ``UNAVAILABLE``.
        message: the server's, or gRPC's own.
    """
    words = message.lower()
    if any(phrase in words for phrase in _FORBIDDEN):
        return Failure.REFUSED
    if any(phrase in words for phrase in _BUSY):
        return Failure.BUSY
    if any(phrase in words for phrase in _BROKEN):
        return Failure.LOST
    kinds = {
        "UNAVAILABLE": Failure.LOST,
        "CANCELLED": Failure.LOST,
        "DEADLINE_EXCEEDED": Failure.LATE,
    }
    return kinds.get(status, Failure.REFUSED)
