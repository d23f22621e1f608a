"""What a supervisor needs of a door, the program part that stands before Triton."""

from __future__ import annotations

from typing import Protocol


class Door(Protocol):
    """Passes clients' requests on to Triton. It outlives a restart of Triton, answering "busy" meanwhile."""

    def open(self) -> None:
        """Starts to listen; called once, when every model has answered.

        Raises:
            ServingError: it cannot listen.
        """
        ...

    def close(self, timeout_s: float) -> None:
        """Takes no new request and ends those in flight, within a time. Triton still runs."""
        ...
