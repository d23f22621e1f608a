"""Triton as a child process: started, listened to, signalled, and cleaned up after."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import ServingError
from .endpoint import Endpoint
from .heap import HEAP_VARIABLES
from .installation import Installation
from .settings import ServerSettings
from .stubs import Stub

SHARED_MEMORY = Path("/dev/shm")
_LEVELS = {"I": logging.DEBUG, "W": logging.INFO, "E": logging.WARNING, "F": logging.ERROR}
# "2026-01-31T12:00:00Z E 123 server.cc:241] ..."
_LINE = re.compile(r"^\S+Z (?P<level>[IWEF]) \d+ (?P<text>.*)$")
_KEPT_LINES = 5
# What every start without a GPU says.
_HARMLESS = ("CudaDriverHelper has not been initialized", "no pinned memory pool")

logger = logging.getLogger(__name__)
triton_logger = logging.getLogger("runtime.serving.triton")


def server_command(
    installation: Installation,
    settings: ServerSettings,
    endpoint: Endpoint,
    repository: Path,
    models: Iterable[str],
    memory_prefix: str,
) -> list[str]:
    """Triton's whole command line."""
    command = [
        str(installation.program),
        f"--model-repository={repository}",
        "--model-control-mode=explicit",
        *(f"--load-model={model}" for model in models),
        "--disable-auto-complete-config",
        "--strict-readiness=true",
        f"--exit-timeout-secs={max(1, round(settings.drain_s))}",
        "--log-format=ISO8601",
        *endpoint.server_flags(),
        *installation.flags,
    ]
    if settings.config_name is not None:
        command.append(f"--model-config-name={settings.config_name}")
    if installation.backends is not None:
        command.append(f"--backend-directory={installation.backends}")
        command.append(f"--backend-config=python,shm-region-prefix-name={memory_prefix}")
    return command


class ServerProcess:
    """A running Triton and the stubs that it started.

    It ends with this process: make it in the main thread, because the kernel takes the end of the thread
    that made it for the end of the parent.

    Args:
        command: program and arguments.
        variables: for its environment, beside those of this process, which go before ``HEAP_VARIABLES``.
        memory_prefix: of the names of its shared memory, which a killed server leaves behind.

    Raises:
        ServingError: the program cannot be run.
    """

    def __init__(self, command: Sequence[str], *, variables: Mapping[str, str], memory_prefix: str) -> None:
        helper = Path(__file__).with_name("die_with_parent.py")
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-I", str(helper), str(os.getpid()), *command],
                env={**HEAP_VARIABLES, **_without_passphrases(os.environ), **variables},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches it through the supervisor only
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise ServingError(f"cannot start {command[0]}: {error.strerror or error}") from error
        self._memory_prefix = memory_prefix
        self._last: deque[str] = deque(maxlen=_KEPT_LINES)
        self._reader = threading.Thread(target=self._read, name="triton-log", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Of Triton."""
        return self._child.pid

    def status(self) -> int | None:
        """Its exit status, as a shell gives it, or None while it runs."""
        return _as_shell(self._child.poll())

    def wait(self, timeout_s: float) -> int | None:
        """The exit status, or None if it still runs after the time."""
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout_s)
        return self.status()

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to Triton alone."""
        self._child.send_signal(number)

    def end(self) -> int:
        """Kills what is left of Triton and its stubs, and frees their shared memory.

        Returns:
            The exit status.
        """
        # The group's number stays taken as long as a stub is in it or Triton has not been waited for.
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._child.wait()
        self._reader.join(timeout=1.0)
        self.hide_memory()
        return _as_shell(self._child.returncode) or 0

    def stubs(self) -> dict[int, Stub]:
        """What its child processes run, by their ids.

        Raises:
            ServingError: nobody can tell, say because no more files can be opened.
        """
        found = {}
        try:
            for task in _listed(f"/proc/{self.pid}/task"):
                for child in _content(f"{task}/children").split():
                    # "STUB .../MODEL/VERSION/FILE ..."; nothing of a dead one.
                    arguments = _content(f"/proc/{int(child)}/cmdline").split(b"\0")
                    if len(arguments) > 1:
                        folder = Path(os.fsdecode(arguments[1])).parent
                        found[int(child)] = Stub(folder.parent.name, folder.name)
        except OSError as error:
            raise ServingError(f"cannot look for the models' processes: {error.strerror or error}") from error
        return found

    def lives(self, stub: int) -> bool:
        """Whether one of ``stubs`` still runs, or nobody can tell. Asked often, so it looks for no others."""
        try:
            stat = _content(f"/proc/{stub}/stat")
        except OSError:
            return True
        return stat != b"" and stat.rpartition(b")")[2].split()[0] not in b"ZX"

    def kill_stubs(self, model: str) -> None:
        """Kills the processes of a model, those of every version.

        Raises:
            ServingError: see ``stubs``.
        """
        for pid, stub in self.stubs().items():
            if stub.model == model:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def hide_memory(self) -> None:
        """Takes away the names of the memory through which Triton hands faces to its stubs.

        Every user of the machine may read it by its name, which only a stub that starts has a use for. What
        cannot be done now is left for the next time.
        """
        try:
            for region in _listed(str(SHARED_MEMORY)):
                if Path(region).name.startswith(self._memory_prefix):
                    Path(region).unlink(missing_ok=True)
        except OSError as error:
            logger.warning("the memory of the models' processes keeps its name: %s", error.strerror or error)

    def last_errors(self) -> str:
        """The last errors that it printed."""
        return "\n".join(self._last) or "it printed no error"

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            match = _LINE.match(line.rstrip())
            if match is None or any(words in line for words in _HARMLESS):
                triton_logger.debug("%s", line.rstrip())
                continue
            triton_logger.log(_LEVELS[match["level"]], "%s", match["text"])
            if match["level"] in "EF":
                self._last.append(match["text"])


def _listed(folder: str) -> list[str]:
    """What a folder holds, nothing if it is gone. ``Path.glob`` would pass over other errors, too."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return [f"{folder}/{name}" for name in os.listdir(folder)]
    return []


def _content(path: str) -> bytes:
    """A file of a process, nothing if that is gone."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(path).read_bytes()
    return b""


def _without_passphrases(environment: Mapping[str, str]) -> dict[str, str]:
    """What Triton and the models' processes inherit: they need no secret, and /proc shows what they have."""
    return {name: value for name, value in environment.items() if not name.endswith("_PASSPHRASE")}


def _as_shell(status: int | None) -> int | None:
    return 128 - status if status is not None and status < 0 else status
