"""The end of a server: its doors all at once, then Triton, in one time that a second signal cuts short."""

from __future__ import annotations

import logging
import signal
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

from ..closing import Closing

# How often the processes are looked at.
TICK_S = 0.1
# Beyond the time for requests in flight: for a door to write what it must, and until Triton is killed.
_GRACE_S = 5.0

logger = logging.getLogger(__name__)


class Door(Closing):
    """What stands before Triton. ``close`` takes no new request and waits for those in flight."""

    @abstractmethod
    def cut(self) -> None:
        """Ends the requests in flight, so that ``close`` in another thread returns soon."""


class Ends(Protocol):
    """What is needed of ``ServerProcess``."""

    def wait(self, timeout_s: float) -> int | None: ...

    def send(self, number: signal.Signals) -> None: ...

    def end(self) -> int: ...


def end_all(doors: Sequence[Door], process: Ends, *, drain_s: float, hurried: Callable[[], bool]) -> int:
    """Ends doors and Triton, with their requests in flight.

    Args:
        doors: closed all at once; each waits up to ``drain_s`` itself.
        process: ended when they are.
        drain_s: for everything together. Five seconds later it is over whatever happens.
        hurried: asked all the while; True ends at once.

    Returns:
        Triton's exit status.
    """
    logger.info("ending; requests in flight have %g s", drain_s)
    until = time.monotonic() + drain_s + _GRACE_S

    def over() -> bool:
        return hurried() or time.monotonic() >= until

    calm = close_all(doors, over)
    if calm:
        process.send(signal.SIGTERM)
        while (status := process.wait(TICK_S)) is None and calm:
            calm = not over()
        if status is not None:
            logger.info("ended with status %d", status)
            return status
    logger.error("the server is killed, with what is in flight")
    return process.end()


def close_all(doors: Sequence[Door], over: Callable[[], bool]) -> bool:
    """Closes doors all at once, and cuts off what is in flight as soon as it is over; False if it was."""
    closing = [threading.Thread(target=_close, args=[door], daemon=True) for door in doors]
    for thread in closing:
        thread.start()
    while any(thread.is_alive() for thread in closing):
        if over():
            for door in doors:
                door.cut()
            until = time.monotonic() + _GRACE_S
            for thread in closing:
                thread.join(max(0.0, until - time.monotonic()))
            return False
        time.sleep(TICK_S)
    return True


def _close(door: Door) -> None:
    try:
        door.close()
    except Exception:
        logger.exception("a door did not close as it should")
