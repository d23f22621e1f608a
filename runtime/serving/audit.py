"""The authority's log: every request as one record, on the disk before its answer leaves.

The file is opened for appending only and held with a lock, so that there is one writer. A record that cannot
be written whole is an error, and its caller releases nothing. Nothing that reached the file is ever cut off
again; see ``audit_chain`` for the form, and for how unfinished bytes are sealed.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..closing import Closing
from ..errors import AuditError
from . import audit_chain, audit_file
from .audit_chain import Head

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is recorded of one request.

    Attributes:
        outcome: ``restored``: the answer was about to leave when this was written. ``refused``: no face
            reached the network. ``failed``: the network had them, and nothing was released.
        reason: why it was refused or failed, empty if restored.
        client: subject of the client's certificate, RFC 4514.
        certificate_sha256: hex, of the certificate in DER.
        serial: the certificate's serial number, hex.
        model: name of the network that is served.
        model_version: the version that answered, empty if none did.
        model_sha256: hex, of that version, unsealed; empty if none did.
        faces: how many, 0 if the request could not be understood.
        input_sha256: hex, of the faces as they came, ``uint8 (N, H, W, 3)``; empty if there were none.
        output_sha256: hex, of the restored faces, in the same form; empty if there were none.
    """

    outcome: Literal["restored", "refused", "failed"]
    reason: str = ""
    client: str
    certificate_sha256: str
    serial: str
    model: str
    model_version: str = ""
    model_sha256: str = ""
    faces: int = 0
    input_sha256: str = ""
    output_sha256: str = ""


class AuditLog(Closing):
    """The log, open for writing. Threads may share it."""

    def __init__(self, path: Path) -> None:
        """Opens a log, checks the whole of it, and seals a torn tail; begins it if there is none.

        Raises:
            AuditError: the file cannot be had, is open to others, is in use, was closed by a rotation, or
                its chain is broken.
        """
        self.path = Path(path)
        self._lock = threading.Lock()
        self._broken = ""
        self._descriptor = audit_file.open_log(self.path)
        try:
            audit_file.take(self._descriptor, self.path)
            self._head: Head | None = None
            self._torn = b""
            self._end = os.fstat(self._descriptor).st_size
            if self._end:
                self._resume()
            else:
                self._append(audit_chain.GENESIS, audit_file.genesis_fields())
                audit_file.sync_folder(self.path)
        except BaseException:
            os.close(self._descriptor)
            raise

    @property
    def head(self) -> Head:
        """The last record's number and hash: what to note elsewhere."""
        assert self._head is not None
        return self._head

    @property
    def usable(self) -> bool:
        """Whether the next record may succeed: not after an error that only a restart mends."""
        return not self._broken

    def append(self, entry: Entry) -> Head:
        """Writes one record and waits until it is on the disk.

        Returns:
            The new head.

        Raises:
            AuditError: it is not there for certain. What it would have recorded must not happen.
        """
        with self._lock:
            return self._append(audit_chain.REQUEST, dataclasses.asdict(entry))

    def rotate(self, name: str) -> Head:
        """Ends this log for good; ``audit_file.begin_after`` begins the one that continues it.

        Args:
            name: the other log's file name. It is recorded, so that there is only one.

        Raises:
            AuditError: the record cannot be written.
        """
        with self._lock:
            head = self._append(audit_chain.ROTATION, {"continued_in": name})
            self._broken = f"the log {self.path} was closed by a rotation; name {name!r}, which continues it"
            return head

    def close(self) -> None:
        """Gives the file and its lock back."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._descriptor = -1
            self._broken = f"the log {self.path} is closed"

    def _resume(self) -> None:
        chain = audit_file.read_chain(self.path)
        if (name := audit_file.continued_in(chain)) is not None:
            raise AuditError(
                f"the log {self.path} was closed by a rotation; name {name!r}, which continues it"
            )
        self._head, self._torn = chain.head, chain.torn
        if self._torn:
            logger.warning(
                "%s ends in %d unfinished bytes, from a crash or a full disk; they are kept and sealed off",
                self.path,
                len(self._torn),
            )
            self._seal()

    def _append(self, event: str, fields: dict[str, Any]) -> Head:
        if self._broken:
            raise AuditError(self._broken)
        self._check_place()
        if self._torn:
            self._seal()
        return self._write_record(event, fields)

    def _seal(self) -> None:
        if not self._torn.endswith(audit_chain.SEAL):
            self._write(audit_chain.SEAL)
        self._write_record(audit_chain.RECOVERY, audit_chain.recovery_fields(self._torn))

    def _write_record(self, event: str, fields: dict[str, Any]) -> Head:
        record = audit_chain.link(self._head, audit_file.now(), event, fields)
        self._write(audit_chain.canonical(record) + b"\n")
        self._sync()
        self._torn = b""
        self._head = Head(record["sequence"], record["hash"])
        return self._head

    def _write(self, data: bytes) -> None:
        """Appends bytes. Until a record is whole, what was written counts as torn."""
        done = 0
        try:
            while done < len(data):
                done += os.write(self._descriptor, data[done:])
        except OSError as error:
            raise AuditError(
                f"cannot write the log {self.path}: {error.strerror or error}; nothing is restored until "
                "it can be: make room, or repair the disk"
            ) from error
        finally:
            self._torn += data[:done]
            self._end += done

    def _sync(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            # The system may have dropped what it could not write, and says so once only.
            self._broken = (
                f"the disk did not take a record of the log {self.path}: {error.strerror or error}; nothing "
                "is restored any more: repair the disk, check the log, and start the server again"
            )
            raise AuditError(self._broken) from error

    def _check_place(self) -> None:
        """Whether the path still names this file, and nobody else changed its length."""
        held = os.fstat(self._descriptor)
        try:
            named = os.stat(self.path, follow_symlinks=False)
        except OSError:
            named = None
        if named is None or (named.st_dev, named.st_ino) != (held.st_dev, held.st_ino):
            self._broken = (
                f"the log {self.path} was moved, replaced or deleted while open; nothing is restored any "
                "more: put it back and start the server again (to begin a new one: erasablemask audit rotate)"
            )
        elif held.st_size != self._end:
            self._broken = (
                f"the log {self.path} was changed by another program: expected {self._end} bytes, found "
                f"{held.st_size}; nothing is restored any more: check it with: erasablemask audit verify"
            )
        if self._broken:
            raise AuditError(self._broken)
