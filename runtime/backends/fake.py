"""A backend that is a Python function, so that everything above it can be tested without a network."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from numpy.typing import NDArray

from ..errors import BackendError
from .base import Tensors


class FakeBackend:
    """Answers with ``function(inputs)`` and remembers the inputs of every call.

    Attributes:
        calls: the inputs of every run, oldest first.
    """

    name = "fake"

    def __init__(self, function: Callable[[Tensors], dict[str, NDArray]]) -> None:
        self.calls: list[Tensors] = []
        self._function: Callable[[Tensors], dict[str, NDArray]] | None = function

    def run(self, inputs: Tensors) -> dict[str, NDArray]:
        """See ``Backend.run``."""
        if self._function is None:
            raise BackendError("the fake backend is closed")
        self.calls.append(inputs)
        return self._function(inputs)

    def close(self) -> None:
        """See ``Backend.close``."""
        self._function = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
