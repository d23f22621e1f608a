"""Keeps a server answering: starts it, watches it, mends it, updates its models, ends it."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from ..errors import ErasableMaskError, ServingError
from .ending import TICK_S, Door, Ends, close_all, end_all
from .probe import Answering, check_well
from .repository import ServedModel
from .settings import ServerSettings
from .signals import END, UPDATE, Queue, Signals, ToldToEndError
from .staging import StagedRepository
from .stubs import Stubs, StubWatch

# Opens what stands before Triton; called once, when every model has answered. A door outlives restarts of
# Triton.
OpenDoor = Callable[[], Door]
logger = logging.getLogger(__name__)


class Process(Ends, Stubs, Protocol):
    """What is needed of ``ServerProcess``."""

    def status(self) -> int | None: ...

    def kill_stubs(self, model: str) -> None: ...

    def hide_memory(self) -> None: ...

    def last_errors(self) -> str: ...


class Server(Answering, Protocol):
    """What is needed of ``Admin``."""

    def is_ready(self) -> bool: ...

    def load(self, model: str, *, timeout_s: float) -> None: ...

    def unload(self, model: str, *, timeout_s: float) -> None: ...


class Supervisor:
    """Runs one server until a signal ends it.

    Args:
        settings: its times.
        repository: what it serves.
        launch: starts Triton.
        server: calls to it.
        reopen: reads the bundle again, for an update.
        renew: reads again what the doors have of files, for an update; None: nothing.
        doors: opened when the server answers; closed, all at once, before it ends.
        events: signals, in the order of their arrival; see ``signals.listen``.
    """

    def __init__(
        self,
        settings: ServerSettings,
        *,
        repository: StagedRepository,
        launch: Callable[[], Process],
        server: Server,
        reopen: Callable[[], Mapping[str, ServedModel]],
        renew: Callable[[], None] | None = None,
        doors: Sequence[OpenDoor] = (),
        events: Queue | None = None,
    ) -> None:
        self._settings = settings
        self._repository = repository
        self._launch = launch
        self._server = server
        self._reopen = reopen
        self._renew = renew
        self._doors = list(doors)
        self._open_doors: list[Door] = []
        self._answered = False
        self._signals = Signals(events or queue.SimpleQueue())

    def run(self) -> int:
        """Serves until a signal, whatever happens to Triton meanwhile.

        Returns:
            Triton's exit status.

        Raises:
            ErasableMaskError: the first start failed, or a door cannot be opened.
        """
        soon, last_status = 0, 1
        try:
            while True:
                started = time.monotonic()
                process, status = None, None
                try:
                    process = self._start()
                    status = self._serve(process)
                except _StartError as error:
                    if not self._answered:
                        raise
                    logger.error("%s", error)
                finally:
                    if process is not None:
                        last_status = process.end()
                if status is not None:
                    return status
                soon = 0 if time.monotonic() - started > self._settings.backoff_max_s else soon + 1
                pause_s = min(self._settings.backoff_s * 2 ** max(soon - 1, 0), self._settings.backoff_max_s)
                logger.error("restarting the server in %g s", pause_s)
                if self._signals.next(pause_s, only=END) is not None:
                    return last_status
        finally:
            close_all(self._open_doors, self._signals.told_to_end)

    def _start(self) -> Process:
        try:
            return self._launch()
        except ServingError as error:
            raise _StartError(str(error)) from error

    def _serve(self, process: Process) -> int | None:
        """One life of Triton: its exit status after a signal, None if it must be restarted.

        Raises:
            _StartError: it did not become ready.
            ErasableMaskError: a door cannot be opened.
        """
        try:
            self._become_ready(process)
            process.hide_memory()
            while self._doors:
                self._open_doors.append(self._doors.pop(0)())
            self._answered = True
            logger.info("ready: %s answered an inference", ", ".join(self._repository.models))
            self._watch(process)
        except ToldToEndError:
            return self._end(process)
        return None

    def _become_ready(self, process: Process) -> None:
        """Waits until every model answered."""
        until = time.monotonic() + self._settings.start_timeout_s
        waiting_for = "the server was not ready"
        while True:
            if (status := process.status()) is not None:
                raise _StartError(
                    f"the server ended with status {status} before it was ready: {process.last_errors()}"
                )
            if self._server.is_ready():
                try:
                    for name in self._repository.models:
                        self._probe(name)
                except ServingError as error:
                    waiting_for = str(error)
                else:
                    return
            if time.monotonic() >= until:
                raise _StartError(
                    f"expected every model to answer within {self._settings.start_timeout_s:g} s, found: "
                    f"{waiting_for}; its last errors: {process.last_errors()}"
                )
            if self._signals.next(TICK_S, only=END) is not None:
                raise ToldToEndError

    def _watch(self, process: Process) -> None:
        """Looks after a server until it must be restarted."""
        watch = StubWatch(process, lambda: self._repository.versions)
        watch.expect(self._repository.models)
        next_look = time.monotonic() + self._settings.probe_interval_s
        while True:
            event = self._signals.next(TICK_S)
            if event in END:
                raise ToldToEndError
            if event == UPDATE:
                self._renew_certificates()
                self._update()
                process.hide_memory()
                watch.look_anew()
            if (status := process.status()) is not None:
                logger.error("the server ended with status %d: %s", status, process.last_errors())
                return
            dead = watch.dead()
            look = time.monotonic() >= next_look
            if not (dead or look):
                continue
            for name in self._repository.models:
                killed = name in dead
                if (killed or look) and not self._is_well(name, killed):
                    if not self._mend(process, name):
                        return
                    watch.expect([name])
            process.hide_memory()
            watch.look_anew()
            next_look = time.monotonic() + self._settings.probe_interval_s

    def _is_well(self, name: str, killed: bool) -> bool:
        """Whether a model answers."""
        try:
            if killed:
                raise ServingError("its process died")
            self._probe(name)
        except ServingError as error:
            logger.error("%s does not answer and is loaded again: %s", name, error)
            return False
        return True

    def _mend(self, process: Process, name: str) -> bool:
        """Loads a model again; False if that does not help."""
        try:
            process.kill_stubs(name)  # one that hangs would keep its old model, and in the end the server
            self._unload(name)
            self._load(name)
            self._probe(name)
        except ServingError as error:
            logger.error("loading %s again did not help: %s", name, error)
            return False
        logger.warning("%s answers again", name)
        return True

    def _load(self, name: str) -> None:
        timeout_s = self._settings.start_timeout_s
        self._signals.heard_during(lambda: self._server.load(name, timeout_s=timeout_s))

    def _unload(self, name: str) -> None:
        timeout_s = self._settings.probe_timeout_s
        self._signals.heard_during(lambda: self._server.unload(name, timeout_s=timeout_s))

    def _probe(self, name: str, version: str = "") -> None:
        """Raises ``ServingError`` if a model is not well; one that is only busy is."""
        entry, timeout_s = self._repository.models[name].entry, self._settings.probe_timeout_s
        self._signals.heard_during(
            lambda: check_well(self._server, name, entry, timeout_s=timeout_s, version=version)
        )

    def _renew_certificates(self) -> None:
        if self._renew is None:
            return
        try:
            self._renew()
        except ErasableMaskError as error:
            logger.error("no new certificate, the old one goes on: %s", error)

    def _update(self) -> None:
        """Serves what the bundle now holds, if it proves well; else goes on with what was served."""
        try:
            versions = self._repository.stage(self._reopen())
        except ErasableMaskError as error:
            logger.error("no update, the old version goes on serving: %s", error)
            return
        if not versions:
            logger.info("no update: the bundle is the one that is served")
            return
        try:
            for name, version in versions.items():
                self._load(name)
                self._probe(name, str(version))
        except ServingError as error:
            logger.error("no update, the old version goes on serving: %s", error)
            self._repository.withdraw()
            for name in versions:
                with suppress(ServingError):  # the next look finds out whether it answers
                    self._load(name)
            return
        self._repository.settle()
        logger.info("updated: %s", ", ".join(f"{name} {version}" for name, version in versions.items()))

    def _end(self, process: Process) -> int:
        """Ends doors and server with their requests in flight; a second signal ends at once."""
        doors, self._open_doors = self._open_doors, []
        hurried = self._signals.told_to_end
        return end_all(doors, process, drain_s=self._settings.drain_s, hurried=hurried)


class _StartError(ServingError):
    """Triton did not become ready."""
