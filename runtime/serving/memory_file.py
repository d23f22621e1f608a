"""Files that exist in memory only, for a program that insists on reading a file.

``memfd_create`` makes a file without a name. Any process of the same user reads it under
``/proc/PID/fd/N`` while the process that made it lives; a repository holds a link to that. When the process
ends, however it ends, the link leads nowhere and the memory is free.

What this does not keep out: root, other processes of the same user, and swap. Nor is it the only copy: the
bytes object it was filled from stays in this process until Python frees it, which does not wipe it, and the
server that loaded the file holds the weights in its own memory.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import resource
from pathlib import Path

from ..closing import Closing
from ..errors import ServingError


class MemoryFile(Closing):
    """A file in memory that nobody can change any more, readable under ``path`` until it is closed.

    Args:
        data: the content.
        name: shown by the system's tools, for people.

    Raises:
        ServingError: the system has no such files, or no memory for this one.
    """

    def __init__(self, data: bytes, name: str) -> None:
        if not hasattr(os, "memfd_create"):
            raise ServingError(
                "secrets are served from files in memory only, and this system has none: expected Linux with "
                "memfd_create"
            )
        try:
            self._descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError as error:
            raise ServingError(f"cannot make a file in memory: {error.strerror or error}") from error
        try:
            _fill(self._descriptor, data)
        except OSError as error:
            os.close(self._descriptor)
            raise ServingError(
                f"cannot make a file of {len(data)} bytes in memory: {error.strerror or error}"
            ) from error
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.path = Path(f"/proc/{os.getpid()}/fd/{self._descriptor}")

    def link(self, path: Path) -> None:
        """Makes ``path`` a link to the content.

        Raises:
            ServingError: the link cannot be made.
        """
        try:
            path.symlink_to(self.path)
        except OSError as error:
            raise ServingError(f"cannot make the link {path}: {error.strerror or error}") from error

    def close(self) -> None:
        """Gives the memory back; who has the file open keeps it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


class MemoryModels(Closing):
    """One model's versions in memory, for a repository whose version folders hold links to them."""

    def __init__(self) -> None:
        self._files: dict[int, MemoryFile] = {}

    def write(self, path: Path, data: bytes) -> None:
        """Makes ``path``, in the folder of a version, a link to its content.

        The version before stays, for a server that must go back to it; those before that go.

        Raises:
            ServingError: the link or the file cannot be made.
        """
        version = int(path.parent.name.split(".")[0])  # a version in the making is called 2.partial
        file = MemoryFile(data, path.name)
        try:
            file.link(path)
        except ServingError:
            file.close()
            raise
        for old in [number for number in self._files if number < version - 1 or number == version]:
            self._files.pop(old).close()
        self._files[version] = file

    def sha256_of(self, version: str) -> str:
        """Hex SHA-256 of a version's content.

        Raises:
            ServingError: there is no such version.
        """
        if not version.isdecimal() or int(version) not in self._files:
            raise ServingError(f"expected a version among {sorted(self._files)}, found {version!r}")
        return self._files[int(version)].sha256

    def close(self) -> None:
        """Gives all the memory back."""
        for file in self._files.values():
            file.close()
        self._files = {}


def forbid_core_dumps() -> None:
    """Keeps this process and all that it starts from leaving its memory on a disk when it crashes.

    ``PR_SET_DUMPABLE`` would do it, too, but makes ``/proc/PID/fd`` root's, and the server could not follow
    the link to its model any more.

    Raises:
        ServingError: the system refuses.
    """
    # A limit of 0 stops core files, not programs that the kernel pipes cores to. A limit of 1 byte stops both
    # (fs/coredump.c); it cannot be had where the hard limit is 0 already. The filter empties what is left.
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    limit = 0 if hard == 0 else 1
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
        Path("/proc/self/coredump_filter").write_text("0", encoding="ascii")
    except (OSError, ValueError) as error:
        raise ServingError(
            f"cannot turn core dumps off: {error}; a crash would leave secrets behind"
        ) from error


def _fill(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    os.fchmod(descriptor, 0o400)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
