"""A supervisor in a thread, with a server, a process and a door that are a few lines of Python."""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import CertificateError, ServingError
from runtime.manifest import ModelFile, TensorSpec
from runtime.serving.ending import Door
from runtime.serving.repository import ServedModel
from runtime.serving.settings import ServerSettings
from runtime.serving.staging import StagedRepository
from runtime.serving.stubs import Stub
from runtime.serving.supervisor import Supervisor

ENTRY = ModelFile(
    path="x",
    sha256="",
    inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 2)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 3)),),
)
GOOD = {"y": np.zeros((1, 3), np.float32)}


class FakeProcess:
    """A server that lives until it is told otherwise."""

    def __init__(self) -> None:
        self.exit: int | None = None
        self.signals: list[signal.Signals] = []
        self.deaf = False
        self.children = {1: Stub("protect", "1"), 2: Stub("attributes", "1")}
        self.last_pid = 2
        self.draining: set[int] = set()
        self.killed: list[str] = []
        self.blind = False
        self.ended = False
        self.hidden = 0

    def status(self) -> int | None:
        return self.exit

    def wait(self, timeout_s: float) -> int | None:
        return self.exit

    def send(self, number: signal.Signals) -> None:
        self.signals.append(number)
        if not self.deaf:
            self.exit = 0

    def end(self) -> int:
        self.ended = True
        self.exit = 137 if self.exit is None else self.exit
        return self.exit

    def stubs(self) -> dict[int, Stub]:
        if self.blind:
            raise ServingError("too many open files")
        return dict(self.children)

    def lives(self, stub: int) -> bool:
        return stub in self.children

    def kill_stubs(self, model: str) -> None:
        self.killed.append(model)
        self.children = {pid: stub for pid, stub in self.children.items() if stub.model != model}

    def loaded(self, model: str, version: str, *, old_drain: bool) -> None:
        """Has a process for a version of a model; those of other versions end, or still drain."""
        if Stub(model, version) not in self.children.values() or self.draining:
            others = {pid for pid, stub in self.children.items() if stub.model == model}
            self.children = {
                pid: stub for pid, stub in self.children.items() if old_drain or pid not in others
            }
            self.draining |= others & self.children.keys()
            self.last_pid += 1
            self.children[self.last_pid] = Stub(model, version)

    def hide_memory(self) -> None:
        self.hidden += 1

    def last_errors(self) -> str:
        return "the last error"


class FakeServer:
    """Answers inferences; what fails, and what the supervisor asked for, is in the attributes."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.broken: set[str] = set()
        self.mended_by_load = True
        self.bad_versions: set[str] = set()
        self.on_infer: Callable[[], None] = lambda: None
        self.on_load: Callable[[str], None] = lambda model: None

    def is_ready(self) -> bool:
        return True

    def load(self, model: str, *, timeout_s: float) -> None:
        self.calls.append(f"load {model}")
        self.on_load(model)
        if self.mended_by_load:
            self.broken.discard(model)

    def unload(self, model: str, *, timeout_s: float) -> None:
        self.calls.append(f"unload {model}")

    def infer(
        self, model: str, inputs: Mapping[str, NDArray], *, timeout_s: float, version: str = ""
    ) -> dict[str, NDArray]:
        self.on_infer()
        if model in self.broken or version in self.bad_versions:
            raise ServingError(f"{model} is broken")
        return GOOD

    def completed(self, model: str) -> int:
        return 0


class FakeDoor(Door):
    """Closes when nothing is in flight, or when it is cut."""

    def __init__(self, log: list[str], idle: threading.Event) -> None:
        self.log, self.idle = log, idle
        log.append("open")

    def close(self) -> None:
        self.log.append("close")
        assert self.idle.wait(5)
        self.log.append("closed")

    def cut(self) -> None:
        self.log.append("cut")
        self.idle.set()


class Scene:
    """A supervisor in a thread, and what it works with."""

    def __init__(self, folder: Path, **times: Any) -> None:
        self.settings = ServerSettings(
            role="public",
            bundle=Path("b"),
            **{
                "probe_interval_s": 0.05,
                "probe_timeout_s": 0.05,
                "backoff_s": 0.02,
                "backoff_max_s": 0.05,
                "start_timeout_s": 0.5,
                "drain_s": 0.05,
                **times,
            },
        )
        self.models = {
            name: ServedModel(entry=ENTRY, configs={"config.pbtxt": ""}, files={"model.onnx": b"1"})
            for name in ("protect", "attributes")
        }
        self.repository = StagedRepository(folder / "models", self.models)
        self.processes: list[FakeProcess] = []
        self.server = FakeServer()
        self.events: queue.SimpleQueue[signal.Signals] = queue.SimpleQueue()
        self.doors = 1
        self.door_log: list[str] = []
        self.idle = threading.Event()
        self.idle.set()
        self.next_process: Callable[[], FakeProcess] = FakeProcess
        self.old_drain = False
        self.renewals = 0
        self.bad_certificate = False
        self.result: Any = None

    def launch(self) -> FakeProcess:
        self.processes.append(self.next_process())
        return self.processes[-1]

    def loaded(self, model: str) -> None:
        """What Triton's processes do when it loads the latest version."""
        latest = max(int(path.name) for path in (self.repository.folder / model).glob("[0-9]"))
        self.processes[-1].loaded(model, str(latest), old_drain=self.old_drain)

    def renew(self) -> None:
        self.renewals += 1
        if self.bad_certificate:
            raise CertificateError("it has expired")

    def start(self) -> None:
        self.server.on_load = self.loaded
        supervisor = Supervisor(
            self.settings,
            repository=self.repository,
            launch=self.launch,
            server=self.server,
            reopen=lambda: self.models,
            renew=self.renew,
            doors=self.doors * [lambda: FakeDoor(self.door_log, self.idle)],
            events=self.events,
        )

        def run() -> None:
            try:
                self.result = supervisor.run()
            except ServingError as error:
                self.result = error

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def wait_for(self, holds: Callable[[], bool]) -> None:
        until = time.monotonic() + 5
        while not holds():
            assert time.monotonic() < until
            time.sleep(0.005)

    def ready(self) -> None:
        self.start()
        self.wait_for(lambda: self.door_log == self.doors * ["open"])

    def end(self, number: signal.Signals = signal.SIGTERM) -> Any:
        self.events.put(number)
        self.thread.join(5)
        assert not self.thread.is_alive()
        assert all(process.ended for process in self.processes)
        return self.result
