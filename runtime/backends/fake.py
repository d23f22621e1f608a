"""A backend that is a Python function, so that everything above it can be tested without a network."""

from __future__ import annotations

from collections.abc import Callable

from numpy.typing import NDArray

from ..closing import Closing
from ..errors import BackendError
from .base import Tensors


class FakeBackend(Closing):
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
