"""A door that serves in an event loop, in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
from abc import abstractmethod
from contextlib import suppress
from typing import Self

from ..errors import ServingError
from .ending import Door

logger = logging.getLogger(__name__)


class AsyncDoor(Door):
    """Runs ``_serve`` from ``start`` to ``close``. A context manager that starts it.

    Args:
        place: where it listens, ``host:port``, for errors.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._at_once: asyncio.Event | None = None

    @abstractmethod
    def _check_installed(self) -> None:
        """Raises ``MissingExtraError`` if a library is missing."""

    @abstractmethod
    async def _serve(self, opened: threading.Event, stop: asyncio.Event, at_once: asyncio.Event) -> None:
        """Listens, sets ``opened``, after ``stop`` waits for the requests in flight, until ``at_once``."""

    def start(self) -> Self:
        """Listens; returns the door itself when its port is open.

        Raises:
            MissingExtraError: a library is not installed.
            ServingError: the port cannot be opened.
        """
        self._check_installed()
        opened = threading.Event()
        failed: list[Exception] = []
        self._thread = threading.Thread(
            target=lambda: self._run(opened, failed), name=type(self).__name__, daemon=True
        )
        self._thread.start()
        opened.wait()
        if failed:
            self._thread.join()
            self._thread = None
            raise ServingError(
                f"cannot listen on {self._place}: {failed[0]}; choose another port"
            ) from failed[0]
        return self

    def close(self) -> None:
        """Takes no more requests, and waits for those in flight. Closing twice does nothing."""
        if self._thread is None or self._loop is None or self._stop is None:
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._thread = None

    def cut(self) -> None:
        """See ``Door.cut``."""
        if self._loop is not None and self._at_once is not None:
            with suppress(RuntimeError):  # it has closed already
                self._loop.call_soon_threadsafe(self._at_once.set)

    def __enter__(self) -> Self:
        return self.start()

    def _run(self, opened: threading.Event, failed: list[Exception]) -> None:
        """The thread. Whatever happens in it, ``start`` does not wait for ever."""
        try:
            asyncio.run(self._until_stopped(opened))
        except Exception as error:
            if opened.is_set():
                logger.exception("the door did not close as it should")
            failed.append(error)
        finally:
            opened.set()

    async def _until_stopped(self, opened: threading.Event) -> None:
        self._loop, self._stop, self._at_once = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        await self._serve(opened, self._stop, self._at_once)
