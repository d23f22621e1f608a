"""Memory that requests share: what each has taken so far, and whether there is more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Room:
    """So many bytes for all requests together. Not for several threads.

    Args:
        limit: bytes. A request that is alone has room for more.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """One request's part, given back at the end."""
        share = Share(self)
        try:
            yield share
        finally:
            self.taken -= share.taken


class Share:
    """What one request has taken of a room."""

    def __init__(self, room: Room) -> None:
        self._room, self.taken = room, 0

    def take(self, count: int) -> bool:
        """Takes bytes as they arrive; False if there is no room for them beside other requests."""
        room = self._room
        if room.taken > self.taken and room.taken + count > room.limit:
            return False
        room.taken += count
        self.taken += count
        return True
