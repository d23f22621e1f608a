"""How many connections a door holds and for how long, and the open files that they are."""

from __future__ import annotations

import logging
import resource

# Of one door; who comes on top is hung up on.
MAX_CONNECTIONS = 1000
# Without a request, from the beginning on or since the last; a request's head must have come by then, too.
IDLE_S = 60.0
# Two full doors, one of which opens a connection to Triton for each of its clients, and everything else.
OPEN_FILES = 4096

logger = logging.getLogger(__name__)


def allow_open_files() -> None:
    """Raises this process's limit of open files to what full doors take, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES:
        soft = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES:
        logger.warning(
            "expected that %d files may be open, found a limit of %d: many clients may use them up; "
            "raise the hard limit (ulimit -Hn)",
            OPEN_FILES,
            soft,
        )
