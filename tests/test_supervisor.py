"""What the supervisor does when something happens, with a server that is a few lines of Python."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.errors import ServingError
from runtime.serving.admin import TritonBusyError
from runtime.serving.probe import check_well, infer_once
from runtime.serving.repository import ServedModel
from runtime.serving.stubs import Stub

from .supervisor_fakes import ENTRY, FakeProcess, FakeServer, Scene


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_closes_the_doors_then_the_server_whose_status_is_the_result(
    scene: Scene, number: signal.Signals
) -> None:
    scene.ready()
    assert scene.processes[0].hidden == 1
    assert scene.end(number) == 0
    assert scene.processes[0].signals == [signal.SIGTERM]
    assert scene.door_log == ["open", "close", "closed"]


def test_a_server_that_does_not_end_is_killed(scene: Scene) -> None:
    scene.ready()
    scene.processes[0].deaf = True
    scene.events.put(signal.SIGTERM)
    assert scene.end(signal.SIGTERM) == 137


def test_doors_close_together_and_the_server_ends_after_them(tmp_path: Path) -> None:
    scene = Scene(tmp_path, drain_s=30)
    scene.doors = 2
    scene.idle.clear()
    scene.ready()
    scene.events.put(signal.SIGTERM)
    scene.wait_for(lambda: scene.door_log[2:] == ["close", "close"])
    time.sleep(0.3)
    assert scene.processes[0].signals == [], "it answers what is in flight"
    scene.idle.set()
    scene.thread.join(5)
    assert scene.result == 0
    assert scene.door_log[4:] == ["closed", "closed"]
    assert scene.processes[0].signals == [signal.SIGTERM]


def test_a_second_signal_cuts_off_what_is_in_flight_at_the_doors(tmp_path: Path) -> None:
    scene = Scene(tmp_path, drain_s=30)
    scene.idle.clear()
    scene.ready()
    scene.events.put(signal.SIGTERM)
    scene.wait_for(lambda: "close" in scene.door_log)
    began_s = time.monotonic()
    assert scene.end(signal.SIGINT) == 137
    assert scene.door_log == ["open", "close", "cut", "closed"]
    assert time.monotonic() - began_s < 10, "thirty seconds of draining were left"


def test_the_time_for_doors_and_server_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A door that takes all of it leaves none to the server."""
    monkeypatch.setattr("runtime.serving.ending._GRACE_S", 0.2)
    scene = Scene(tmp_path)
    scene.idle.clear()
    scene.ready()
    scene.processes[0].deaf = True
    assert scene.end() == 137
    assert scene.door_log == ["open", "close", "cut", "closed"]
    assert scene.processes[0].signals == []


def test_a_first_start_that_fails_is_an_error(scene: Scene) -> None:
    def dead() -> FakeProcess:
        process = FakeProcess()
        process.exit = 1
        return process

    scene.next_process = dead
    scene.start()
    scene.thread.join(5)
    assert str(scene.result) == "the server ended with status 1 before it was ready: the last error"
    assert len(scene.processes) == 1
    assert scene.door_log == []


def test_ready_means_that_every_model_answered(scene: Scene) -> None:
    scene.server.broken = {"attributes"}
    scene.start()
    scene.thread.join(5)
    assert "expected every model to answer within 0.5 s, found: attributes is broken" in str(scene.result)


def test_a_signal_while_starting_ends_it(tmp_path: Path) -> None:
    scene = Scene(tmp_path, start_timeout_s=60)
    scene.server.broken = {"protect"}
    scene.start()
    scene.events.put(signal.SIGHUP)
    assert scene.end() == 0


def test_a_server_that_dies_is_started_again_with_growing_pauses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(tmp_path, backoff_s=0.2, backoff_max_s=0.5)
    scene.ready()
    for count in range(1, 4):
        scene.wait_for(lambda count=count: len(scene.processes) == count)
        scene.processes[-1].exit = 139
    scene.wait_for(lambda: len(scene.processes) == 4)
    assert scene.end() == 0
    assert scene.door_log == ["open", "close", "closed"]
    pauses = [record.getMessage() for record in caplog.records if "restarting" in record.getMessage()]
    assert pauses == [f"restarting the server in {pause} s" for pause in ("0.2", "0.4", "0.5")]
    assert "the server ended with status 139: the last error" in caplog.text


def test_a_restart_that_fails_is_tried_again(scene: Scene) -> None:
    scene.ready()

    def dead() -> FakeProcess:
        process = FakeProcess()
        process.exit = 1
        return process

    scene.next_process = dead
    scene.processes[0].exit = 1
    scene.wait_for(lambda: len(scene.processes) >= 3)
    scene.next_process = FakeProcess
    scene.wait_for(lambda: scene.processes[-1].exit is None)
    assert scene.end() == 0


def test_a_signal_between_two_lives_ends_it_with_the_servers_status(tmp_path: Path) -> None:
    scene = Scene(tmp_path, backoff_s=30, backoff_max_s=30)
    scene.ready()
    scene.processes[0].exit = 139
    scene.wait_for(lambda: scene.processes[0].ended)
    assert scene.end() == 139
    assert scene.door_log == ["open", "close", "closed"]


def test_a_model_whose_process_died_is_loaded_again_at_once(tmp_path: Path) -> None:
    scene = Scene(tmp_path, probe_interval_s=60)
    scene.ready()
    time.sleep(0.05)
    del scene.processes[0].children[1]
    scene.wait_for(lambda: scene.server.calls == ["unload protect", "load protect"])
    assert scene.end() == 0
    assert len(scene.processes) == 1


def test_one_of_two_instances_that_dies_is_missed(tmp_path: Path) -> None:
    """Though the other one answers."""
    scene = Scene(tmp_path, probe_interval_s=60)
    two_instances = FakeProcess()
    scene.next_process = lambda: two_instances
    two_instances.children[3] = Stub("protect", "1")
    scene.ready()
    time.sleep(0.3)
    assert scene.server.calls == []
    del two_instances.children[3]
    scene.wait_for(lambda: scene.server.calls == ["unload protect", "load protect"])
    assert scene.end() == 0


def test_a_model_that_does_not_answer_is_loaded_again(scene: Scene) -> None:
    scene.ready()
    scene.server.broken = {"attributes"}
    scene.wait_for(lambda: scene.server.calls == ["unload attributes", "load attributes"])
    assert scene.end() == 0
    assert len(scene.processes) == 1


def test_a_server_whose_model_cannot_be_mended_is_started_again(scene: Scene) -> None:
    scene.ready()
    scene.server.mended_by_load = False
    scene.server.broken = {"protect"}
    scene.wait_for(lambda: scene.processes[0].ended)
    scene.server.broken = set()
    scene.wait_for(lambda: len(scene.processes) == 2 and scene.processes[1].exit is None)
    assert scene.end() == 0


def new_weights(scene: Scene) -> None:
    scene.models = {
        name: ServedModel(entry=ENTRY, configs=model.configs, files={"model.onnx": b"2"})
        for name, model in scene.models.items()
    }


def folders(scene: Scene) -> list[str]:
    return sorted(
        path.relative_to(scene.repository.folder).as_posix() for path in scene.repository.folder.glob("*/*/")
    )


def test_an_update_loads_new_versions_and_drops_the_old(scene: Scene) -> None:
    scene.ready()
    new_weights(scene)
    scene.events.put(signal.SIGHUP)
    scene.wait_for(lambda: folders(scene) == ["attributes/2", "protect/2"])
    assert scene.server.calls == ["load protect", "load attributes"]
    assert scene.end() == 0


def test_a_bad_update_is_taken_back_for_every_model(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.ready()
    new_weights(scene)
    scene.server.bad_versions = {"2"}
    scene.events.put(signal.SIGHUP)
    scene.wait_for(lambda: len(scene.server.calls) == 3)
    assert scene.end() == 0
    assert scene.server.calls == ["load protect", "load protect", "load attributes"]
    assert folders(scene) == ["attributes/1", "protect/1"]
    assert "no update, the old version goes on serving: protect is broken" in caplog.text


@pytest.mark.parametrize("bad", [False, True])
def test_an_update_also_renews_what_the_doors_have_of_files(
    scene: Scene, caplog: pytest.LogCaptureFixture, bad: bool
) -> None:
    """One that fails does not keep the models from being updated."""
    scene.ready()
    scene.bad_certificate = bad
    new_weights(scene)
    scene.events.put(signal.SIGHUP)
    scene.wait_for(lambda: folders(scene) == ["attributes/2", "protect/2"])
    assert scene.end() == 0
    assert scene.renewals == 1
    assert ("no new certificate, the old one goes on: it has expired" in caplog.text) == bad


@pytest.mark.parametrize("bad", [False, True])
def test_an_old_version_that_ends_after_an_update_is_no_fault(tmp_path: Path, bad: bool) -> None:
    """It answers what was in flight first. After a bad update two processes of version 1 are there."""
    scene = Scene(tmp_path, probe_interval_s=60)
    scene.old_drain = True
    scene.ready()
    new_weights(scene)
    scene.server.bad_versions = {"2"} if bad else set()
    scene.events.put(signal.SIGHUP)
    scene.wait_for(lambda: len(scene.server.calls) == (3 if bad else 2))
    process = scene.processes[0]
    time.sleep(0.3)
    for pid in process.draining:
        del process.children[pid]
    time.sleep(0.3)
    assert scene.end() == 0
    assert process.killed == []
    assert [call for call in scene.server.calls if "unload" in call] == []


def test_a_process_that_dies_while_another_model_is_mended_is_missed(tmp_path: Path) -> None:
    scene = Scene(tmp_path, probe_interval_s=60)
    scene.ready()
    time.sleep(0.05)
    process = scene.processes[0]
    scene.server.on_infer = lambda: process.children.pop(2, None) and None  # while ``protect`` is probed
    del process.children[1]
    scene.wait_for(lambda: scene.server.calls[2:] == ["unload attributes", "load attributes"])
    assert scene.end() == 0
    assert process.killed == ["protect", "attributes"]


def test_a_supervisor_that_cannot_look_takes_nothing_for_dead(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.ready()
    scene.processes[0].blind = True
    time.sleep(0.5)
    assert scene.end() == 0
    assert caplog.text.count("too many open files") == 1
    assert scene.processes[0].killed == []
    assert len(scene.processes) == 1


def test_a_restart_that_cannot_even_begin_is_tried_again(scene: Scene) -> None:
    scene.ready()

    def cannot() -> FakeProcess:
        scene.next_process = FakeProcess
        raise ServingError("cannot start tritonserver: Too many open files")

    scene.next_process = cannot
    scene.processes[0].exit = 1
    scene.wait_for(lambda: len(scene.processes) == 2)
    assert scene.end() == 0


@pytest.mark.parametrize("during", ["probe", "load", "update"])
def test_a_signal_to_end_is_heard_whatever_goes_on(tmp_path: Path, during: str) -> None:
    scene = Scene(tmp_path, probe_interval_s=0.05 if during != "update" else 60)
    scene.ready()
    busy, over = threading.Event(), threading.Event()

    def hang(*_: Any) -> None:
        busy.set()
        over.wait(20)

    if during == "probe":
        scene.server.on_infer = hang
    else:
        scene.server.on_load = hang
    if during == "load":
        scene.server.broken = {"protect"}
    if during == "update":
        new_weights(scene)
        scene.events.put(signal.SIGHUP)
    assert busy.wait(5)
    killed = list(scene.processes[0].killed)
    began_s = time.monotonic()
    assert scene.end() == 0
    assert time.monotonic() - began_s < 3
    over.set()
    assert scene.door_log == ["open", "close", "closed"]
    assert scene.processes[0].killed == killed, "what is in flight is answered, not killed"


def test_an_update_that_is_asked_for_during_a_probe_comes_after_it(scene: Scene) -> None:
    scene.ready()
    busy, over = threading.Event(), threading.Event()

    def hang() -> None:
        busy.set()
        over.wait(20)

    scene.server.on_infer = hang
    assert busy.wait(5)
    new_weights(scene)
    scene.events.put(signal.SIGHUP)
    time.sleep(0.3)
    over.set()
    scene.wait_for(lambda: folders(scene) == ["attributes/2", "protect/2"])
    assert scene.end() == 0


# Probes.


class Busy(FakeServer):
    """Turns the probe away; ``progress`` says how many others it answers meanwhile."""

    def __init__(self, progress: int) -> None:
        super().__init__()
        self.progress, self.count = progress, 0

    def infer(self, *args: Any, **kwargs: Any) -> dict[str, NDArray]:
        raise TritonBusyError("Exceeds maximum queue size")

    def completed(self, model: str) -> int:
        self.count += self.progress
        return self.count


def test_a_busy_server_is_well_as_long_as_it_answers_others() -> None:
    times = iter(range(100))
    options = {"timeout_s": 3, "clock": lambda: float(next(times)), "sleep": lambda seconds: None}
    check_well(Busy(1), "protect", ENTRY, **options)  # type: ignore[arg-type]
    with pytest.raises(
        ServingError, match="Exceeds maximum queue size, and no other request was answered in"
    ):
        check_well(Busy(0), "protect", ENTRY, **options)  # type: ignore[arg-type]


def test_a_busy_server_becomes_ready_and_is_left_alone(scene: Scene) -> None:
    scene.server = Busy(1)
    scene.ready()
    time.sleep(0.3)
    assert scene.end() == 0
    assert scene.server.calls == []
    assert len(scene.processes) == 1


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({}, "found None"),
        ({"y": np.zeros((1, 4), np.float32)}, r"found \(dtype\('float32'\), \(1, 4\)\)"),
        ({"y": np.zeros((1, 3))}, "float64"),
        ({"y": np.full((1, 3), np.nan, np.float32)}, "found NaN or infinity"),
    ],
)
def test_an_answer_must_be_the_promised_one(
    monkeypatch: pytest.MonkeyPatch, outputs: dict[str, NDArray], message: str
) -> None:
    server = FakeServer()
    monkeypatch.setattr(server, "infer", lambda *args, **kwargs: outputs)
    with pytest.raises(ServingError, match=message):
        infer_once(server, "protect", ENTRY, timeout_s=1)
