"""The signals that end and update a server, taken in turn, and heard while something else goes on."""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from .ending import TICK_S

END = (signal.SIGTERM, signal.SIGINT)
UPDATE = signal.SIGHUP
Result = TypeVar("Result")
Queue = queue.SimpleQueue[signal.Signals]

logger = logging.getLogger(__name__)


class ToldToEndError(Exception):
    """A signal to end came while something else went on."""


class Signals:
    """Those that have come and were not heeded yet.

    Args:
        events: where they arrive, in their order; see ``listen``.
    """

    def __init__(self, events: Queue) -> None:
        self._events = events

    def next(
        self, timeout_s: float, *, only: tuple[signal.Signals, ...] | None = None
    ) -> signal.Signals | None:
        """The next one within the time; those not in ``only`` are passed over."""
        until = time.monotonic() + timeout_s
        while True:
            try:
                event = self._events.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return None
            if only is None or event in only:
                return event
            logger.warning("passed over %s: the server does not serve just now", event.name)

    def told_to_end(self) -> bool:
        """Whether one to end has come."""
        return self.next(0, only=END) is not None

    def heard_during(self, call: Callable[[], Result]) -> Result:
        """The result of a call that may take long. Signals to update keep until it is there.

        Raises:
            ToldToEndError: a signal to end came; the call goes on in a thread that nobody waits for.
            Exception: whatever the call raises.
        """
        result: Future[Result] = Future()
        thread = threading.Thread(target=_fulfil, args=[result, call], name="heard-during", daemon=True)
        thread.start()
        kept = []
        while thread.is_alive():
            thread.join(TICK_S)
            while (event := self.next(0)) is not None:
                if event in END:
                    raise ToldToEndError(event.name)
                kept.append(event)
        for event in kept:
            self._events.put(event)
        return result.result()


def listen() -> Queue:
    """Takes over the signals that end and update a server, in the main thread."""
    events: Queue = queue.SimpleQueue()
    for number in (*END, UPDATE):
        signal.signal(number, lambda received, _frame: events.put(signal.Signals(received)))
    return events


def _fulfil(result: Future[Result], call: Callable[[], Result]) -> None:
    try:
        result.set_result(call())
    except BaseException as error:
        result.set_exception(error)
