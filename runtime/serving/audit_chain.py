"""The form of the authority's log and the check of its chain.

A log is lines of canonical JSON: keys sorted, no blanks, ASCII with escapes, so that no name can break a
line. Each record carries the hash of the one before it (``previous``) and its own (``hash``: SHA-256 of the
record without ``hash``, in the same form). Edited, deleted, inserted and swapped records break the chain.
What a chain alone cannot show is a tail cut off at a record, or a log written anew from some record on: for
that, its head is noted where the log's owner cannot reach, and the check is told to expect it.

Bytes that a crash or a full disk left unfinished stay where they are. ``SEAL`` ends them, and a recovery
record behind it names their number and hash, so that they are part of the chain like everything else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import AuditError

FORMAT = "erasablemask-audit"
VERSION = 1
# What the first record of a log that continues no other names as the one before it.
NO_HASH = "0" * 64
# Ends unfinished bytes. No canonical record ends so, therefore what it ends is never taken for a record.
SEAL = b" torn\n"

GENESIS, REQUEST, RECOVERY, ROTATION = "genesis", "request", "recovery", "rotation"

Record = dict[str, Any]


@dataclass(frozen=True)
class Head:
    """Where a chain ends: the sequence number of its last record, and that record's hash."""

    sequence: int
    hash: str


@dataclass(frozen=True)
class Chain:
    """What the check of a log found.

    Attributes:
        head: the last record's number and hash.
        torn: unfinished bytes after the last record, empty in a log that was closed properly.
        recovered: sequence numbers of the recovery records, each behind an unfinished write.
        clock_went_back: sequence numbers of records that are dated before the one in front of them.
        continues: number of the record, in another log, that the first one follows; None: it follows none.
        last: the last record.
    """

    head: Head
    torn: bytes
    recovered: tuple[int, ...]
    clock_went_back: tuple[int, ...]
    continues: int | None
    last: Record


def canonical(record: Mapping[str, Any]) -> bytes:
    """The one way in which a record is written, without the end of the line."""
    return json.dumps(
        record, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode("ascii")


def hash_of(record: Mapping[str, Any]) -> str:
    """Hex SHA-256 of a record without its ``hash``."""
    return hashlib.sha256(
        canonical({key: value for key, value in record.items() if key != "hash"})
    ).hexdigest()


def link(head: Head | None, time: str, event: str, fields: Mapping[str, Any]) -> Record:
    """The record that follows ``head``; ``None`` begins a log that continues no other."""
    record: Record = {
        **fields,
        "event": event,
        "time": time,
        "sequence": 0 if head is None else head.sequence + 1,
        "previous": NO_HASH if head is None else head.hash,
    }
    return {**record, "hash": hash_of(record)}


def recovery_fields(torn: bytes) -> dict[str, Any]:
    """What a recovery record says of the bytes in front of it, ``SEAL`` included."""
    return {"torn_bytes": len(torn), "torn_sha256": hashlib.sha256(torn).hexdigest()}


def check_chain(
    lines: Iterable[bytes], *, after: Head | None = None, seen: Callable[[Record], None] | None = None
) -> Chain:
    """Checks a whole log.

    Args:
        lines: the log's lines with their ends, as iterating over a binary file gives them.
        after: the head of the log that this one must continue; ``None`` lets its first record say.
        seen: called with every good record in order.

    Raises:
        AuditError: the log is empty, or a record is damaged, missing, inserted or in the wrong place. A
            torn tail is no error here; it is ``Chain.torn``.
    """
    reader = _Reader(after, seen)
    for number, line in enumerate(lines, start=1):
        reader.take(number, line)
    return reader.end()


class _Reader:
    """The state of a check: the head so far, and bytes that no recovery record has explained yet."""

    def __init__(self, after: Head | None, seen: Callable[[Record], None] | None) -> None:
        self._after = after
        self._seen = seen
        self._continues: int | None = None
        self._last: Record | None = None
        self._open = b""
        self._complaint = ""
        self._recovered: list[int] = []
        self._went_back: list[int] = []

    def take(self, number: int, line: bytes) -> None:
        """Takes one line into the chain, or keeps it until a recovery record explains it."""
        problem, record = self._judge(line)
        if problem:
            if line.endswith(b"\n") and not line.endswith(SEAL):
                raise AuditError(f"line {number}: {problem}")
            self._complaint = f"line {number}: {problem}"
            self._open += line
            return
        if self._last is None:
            self._continues = record["sequence"] - 1 if record["sequence"] else None
        elif record["time"] < self._last["time"]:
            self._went_back.append(record["sequence"])
        if record["event"] == RECOVERY:
            self._recovered.append(record["sequence"])
        self._last, self._open, self._complaint = record, b"", ""
        if self._seen is not None:
            self._seen(record)

    def _judge(self, line: bytes) -> tuple[str, Record]:
        """Why a line is not the next record (empty if it is), and the record."""
        if not line.endswith(b"\n"):
            return "the record is unfinished", {}
        try:
            record = json.loads(line)
            same = isinstance(record, dict) and canonical(record) == line[:-1]
        except (ValueError, RecursionError):
            same = False
        if not same:
            return "this is no record in canonical JSON: it was changed or damaged", {}
        if problem := _misshapen(record):
            return problem, {}
        if record["hash"] != hash_of(record):
            return f"record {record['sequence']} was changed: its hash does not fit its content", {}
        if problem := self._misplaced(record):
            return problem, {}
        if record["event"] == RECOVERY:
            named = {key: record.get(key) for key in ("torn_bytes", "torn_sha256")}
            if not self._open or named != recovery_fields(self._open):
                return f"record {record['sequence']} does not explain the bytes in front of it", {}
        elif self._open:
            return "unfinished bytes, and no recovery record behind them", {}
        return "", record

    def _misplaced(self, record: Record) -> str:
        if self._last is None:
            if record["event"] != GENESIS:
                return f"expected the first record of a log, found record {record['sequence']}"
            if record.get("format") != FORMAT or record.get("version") != VERSION:
                return f"expected {FORMAT} version {VERSION}, found another format or version"
            if (record["sequence"] == 0) != (record["previous"] == NO_HASH):
                return "the first record says both that it continues a log and that it does not"
            if self._after is not None and (self._after.sequence + 1, self._after.hash) != (
                record["sequence"],
                record["previous"],
            ):
                return (
                    f"expected a log that continues record {self._after.sequence} with hash "
                    f"{self._after.hash}, found one that continues record {record['sequence'] - 1} with "
                    f"hash {record['previous']}"
                )
            return ""
        if self._last["event"] == ROTATION:
            return f"record {record['sequence']} stands behind the one that closed this log"
        if record["event"] == GENESIS:
            return f"record {record['sequence']} begins a log in the middle of another"
        if record["sequence"] != self._last["sequence"] + 1:
            return (
                f"expected record {self._last['sequence'] + 1}, found record {record['sequence']}: "
                "records were deleted, inserted or swapped"
            )
        if record["previous"] != self._last["hash"]:
            return f"record {record['sequence']} does not follow the one in front of it: that one was changed"
        return ""

    def end(self) -> Chain:
        """What was found, once all lines are taken."""
        if self._last is None:
            raise AuditError(self._complaint or "the log is empty: its first record is missing")
        return Chain(
            head=Head(self._last["sequence"], self._last["hash"]),
            torn=self._open,
            recovered=tuple(self._recovered),
            clock_went_back=tuple(self._went_back),
            continues=self._continues,
            last=self._last,
        )


def _misshapen(record: Record) -> str:
    kinds = {"sequence": int, "event": str, "time": str, "previous": str, "hash": str}
    for name, kind in kinds.items():
        if type(record.get(name)) is not kind:
            return f"a record needs the field {name!r}, {kind.__name__}, found {record.get(name)!r}"
    return ""
