"""Repeats a request to a server where that is safe, with jittered pauses, within one deadline."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from enum import Enum
from typing import TypeVar

Answer = TypeVar("Answer")

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
# A full queue means that others wait too: who comes back for ever only makes it worse.
BUSY_ATTEMPTS = 6


class Failure(Enum):
    """Why there is no answer, which decides whether a request may be repeated."""

    UNREACHED = "there was no connection, so the request was not sent"
    LOST = "the connection or the server broke; whether the request was carried out is not known"
    BUSY = "the server's queue was full"
    LATE = "the deadline passed"
    REFUSED = "the server said no, and would say so again"


class TransportError(Exception):
    """A request without an answer.

    Attributes:
        failure: the kind.
        attempts: how often the request was tried, 1 for a single try.
    """

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure
        self.attempts = 1


def with_retries(
    attempt: Callable[[float], Answer],
    *,
    deadline_s: float,
    repeat: Collection[Failure],
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> Answer:
    """The first answer that an attempt gives.

    Args:
        attempt: sends the request once; takes the seconds that are left.
        deadline_s: for all attempts and pauses together.
        repeat: the failures after which the request may be sent again. A busy server is asked
            ``BUSY_ATTEMPTS`` times, for all others only the deadline counts.
        sleep, now: the clock, exchanged in tests.

    Raises:
        TransportError: of the last attempt.
    """
    end, count, busy = now() + deadline_s, 0, 0
    while True:
        count += 1
        try:
            return attempt(max(end - now(), 1e-3))
        except TransportError as error:
            error.attempts = count
            busy += error.failure is Failure.BUSY
            pause_s = min(FIRST_PAUSE_S * 2.0 ** (count - 1), LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)
            if error.failure not in repeat or busy == BUSY_ATTEMPTS or now() + pause_s >= end:
                raise
        sleep(pause_s)
