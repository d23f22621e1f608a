"""The contract of a backend: named arrays in, named arrays out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from numpy.typing import NDArray

Tensors = Mapping[str, NDArray]


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
