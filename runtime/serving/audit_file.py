"""The authority's log as a file: opened, locked, read, and begun where another one ends."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import AuditError
from . import audit_chain
from .audit_chain import Chain, Head, Record


def begin_after(path: Path, closed: Path) -> Head:
    """Begins the log that continues one closed by ``AuditLog.rotate``.

    Returns:
        The new log's head.

    Raises:
        AuditError: ``path`` exists or cannot be written, or is not the name that ``closed`` was closed
            with, or ``closed`` is open or broken.
    """
    before = read_chain(closed)
    if (name := continued_in(before)) != path.name:
        found = "it open" if name is None else f"that it goes on in {name!r}"
        raise AuditError(f"expected that the log {closed} was rotated to {path.name!r}, found {found}")
    record = audit_chain.link(before.head, now(), audit_chain.GENESIS, genesis_fields())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(audit_chain.canonical(record) + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise AuditError(f"{path} exists, and logs are never overwritten; choose another name") from error
    except OSError as error:
        raise AuditError(f"cannot write {path}: {error.strerror or error}") from error
    sync_folder(path)
    return Head(record["sequence"], record["hash"])


def read_chain(
    path: Path, *, after: Head | None = None, seen: Callable[[Record], None] | None = None
) -> Chain:
    """Checks a log on disk; the arguments are those of ``check_chain``.

    Raises:
        AuditError: it cannot be read, or its chain is broken; the message names the file.
    """
    try:
        with open(path, "rb") as file:
            return audit_chain.check_chain(file, after=after, seen=seen)
    except OSError as error:
        raise AuditError(f"cannot read the log {path}: {error.strerror or error}") from error
    except AuditError as error:
        raise AuditError(
            f"the log {path} is broken at {error}; keep it as evidence, find out who changed it, and let the "
            "server begin a new one under another name"
        ) from error


def continued_in(chain: Chain) -> str | None:
    """The file name of the log that continues a closed one, ``None`` if it is open."""
    return chain.last["continued_in"] if chain.last["event"] == audit_chain.ROTATION else None


def genesis_fields() -> dict[str, Any]:
    """What the first record of a log says beside its place in the chain."""
    return {"format": audit_chain.FORMAT, "version": audit_chain.VERSION}


def now() -> str:
    """The time of a record: UTC, ISO 8601, microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def open_log(path: Path) -> int:
    """Opens a log for appending, and makes it if there is none.

    Raises:
        AuditError: it cannot be had.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(path, flags, 0o600)
    except OSError as error:
        raise AuditError(f"cannot open the log {path}: {error.strerror or error}") from error


def take(descriptor: int, path: Path) -> None:
    """Locks a log against other writers, once it is certain that it is nobody else's file.

    Raises:
        AuditError: it is another kind of file, another user's, open to others, or locked.
    """
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise AuditError(f"expected that the log {path} is a plain file, found something else")
    if found.st_uid != os.geteuid():
        raise AuditError(f"expected that the log {path} belongs to user {os.geteuid()}, found {found.st_uid}")
    if (mode := stat.S_IMODE(found.st_mode)) & 0o077:
        raise AuditError(
            f"expected that the log {path} is open to its owner only, found mode {mode:o}; "
            f"run: chmod 600 {path}"
        )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise AuditError(
            f"the log {path} is in use by another program: a log has one writer; stop that server first"
        ) from error


def sync_folder(path: Path) -> None:
    """Makes a new file's name as lasting as its content."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
