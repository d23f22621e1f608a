"""The contract of a backend: named arrays in, named arrays out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias, runtime_checkable

from ..errors import BackendError

if TYPE_CHECKING:  # the command line lists the backends before it needs NumPy
    from numpy.typing import NDArray

    from ..manifest import Manifest

Tensors: TypeAlias = "Mapping[str, NDArray]"


# What to do about a network that loads and fails.
FAILED = "try another backend, or fewer faces at once; if ort-cpu fails, too, the bundle is damaged"


@runtime_checkable
class Backend(Protocol):
    """One loaded network. Use it as a context manager, or close it.

    A backend is made from a network's bytes, never from a path: the restorer exists in memory only.
    """

    @property
    def name(self) -> str:
        """What runs the network, such as ``ort-cpu``."""
        ...

    def run(self, inputs: Tensors) -> dict[str, NDArray]:
        """Runs the network once.

        Args:
            inputs: every input of the network by name, batch first.

        Returns:
            Every output by name.

        Raises:
            BackendError: an input is missing, unknown or misshapen, or the network failed or is closed.
        """
        ...

    def close(self) -> None:
        """Frees the network. Closing twice does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


# Makes a backend of a network: its name in the manifest, its bytes.
BackendFactory = Callable[[str, bytes], Backend]


@runtime_checkable
class Remote(Protocol):
    """Runs the networks elsewhere, such as a ``TritonServer``: their bytes are not needed here."""

    def connect(self, network: str, manifest: Manifest) -> Backend:
        """A backend for one network that the manifest describes.

        Raises:
            BackendError: it cannot be had.
        """
        ...


def check_names(inputs: Tensors, expected: Collection[str]) -> None:
    """Checks that exactly the network's inputs are there.

    Raises:
        BackendError: one is missing or unknown.
    """
    if inputs.keys() != set(expected):
        raise BackendError(
            f"the network's inputs are {', '.join(sorted(expected))}; "
            f"found {', '.join(sorted(inputs)) or 'none'}"
        )


def check_rows(inputs: Tensors, *, least: int = 1) -> int:
    """The number of rows, that is of faces.

    Raises:
        BackendError: the inputs have different numbers of rows, or fewer than ``least``.
    """
    rows = {values.shape[0] if values.ndim else 0 for values in inputs.values()}
    if len(rows) != 1 or min(rows) < least:
        raise BackendError(f"expected as many rows of every input, at least {least}, found {sorted(rows)}")
    return rows.pop()
