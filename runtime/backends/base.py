"""The contract of a backend: named arrays in, named arrays out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias, runtime_checkable

from ..errors import BackendError

if TYPE_CHECKING:  # the command line lists the backends before it needs NumPy
    from numpy.typing import NDArray

Tensors: TypeAlias = "Mapping[str, NDArray]"


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
