"""``erasablemask health`` at a door that is full: busy is not broken."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from runtime.cli import main
from runtime.serving import grpc_door
from runtime.serving.grpc_door import BATCHES_IN_FLIGHT, GrpcDoor

from .grpc_doors import FakeTriton, channel_to, door_to, in_background
from .triton_fakes import MAX_BATCH


@pytest.fixture
def fake() -> Iterator[FakeTriton]:
    server = FakeTriton()
    yield server
    server.stop()


def health(door: GrpcDoor) -> Result:
    url = f"grpc://127.0.0.1:{door.port}"
    return CliRunner().invoke(main, ["health", "--url", url, "--model", "protect", "--timeout-s", "1"])


@pytest.mark.parametrize(("progress", "status"), [(1, 0), (0, 1)])
def test_a_full_door_is_well_as_long_as_others_are_answered(
    fake: FakeTriton, progress: int, status: int
) -> None:
    fake.let_go.clear()
    with door_to(fake) as door, channel_to(door) as channel:
        held = [in_background(channel, rows=MAX_BATCH) for _ in range(BATCHES_IN_FLIGHT)]
        for _ in held:
            assert fake.arrived.acquire(timeout=5)
        fake.progress = progress
        done = health(door)
        fake.let_go.set()
        for answer in held:
            answer.result(5)
    assert done.exit_code == status, done.output
    assert ("busy; try again" in done.output) == (status == 1)


def test_a_door_that_was_full_and_is_idle_is_asked_again(fake: FakeTriton) -> None:
    """Nobody else is answered meanwhile, for there is nobody else."""
    fake.let_go.clear()
    with door_to(fake) as door, channel_to(door) as channel:
        held = [in_background(channel, rows=MAX_BATCH) for _ in range(BATCHES_IN_FLIGHT)]
        for _ in held:
            assert fake.arrived.acquire(timeout=5)
        threading.Timer(0.5, fake.let_go.set).start()
        done = health(door)
    assert done.exit_code == 0, done.output


def test_a_door_without_room_for_a_question_is_asked_again(
    fake: FakeTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_door, "CALLS_AT_ONCE", 1)
    fake.let_go.clear()
    with door_to(fake) as door, channel_to(door) as channel:
        held = in_background(channel)
        assert fake.arrived.acquire(timeout=5)
        begun = time.monotonic()
        threading.Timer(0.5, fake.let_go.set).start()
        done = health(door)
        assert time.monotonic() - begun > 0.5
        held.result(5)
    assert done.exit_code == 0, done.output


def test_a_server_that_hangs_is_not_well(fake: FakeTriton) -> None:
    fake.let_go.clear()
    with door_to(fake) as door:
        done = health(door)
        fake.let_go.set()
    assert done.exit_code == 1
    assert "no other request was answered in 1 s" in done.output
