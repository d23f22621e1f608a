"""The monitor: no step goes unlogged, and the bar ends where the stage does."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from tests.tiny_training import CONFIG
from training.monitor import SCALARS_EVERY, RunMonitor


def stage(name: str, **changes):
    config = dataclasses.replace(CONFIG.attack, weights={"loss": 1.0}, ramps={}, **changes)
    return SimpleNamespace(name=name, config=config)


@pytest.fixture
def run(tmp_path):
    return SimpleNamespace(folder=tmp_path, at=SimpleNamespace(seconds=0.0))


def logged(run):
    return [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]


def test_the_last_steps_of_a_stage_and_of_a_run_are_logged(run):
    """20 steps and 2, whose losses 21 and 22 have the mean 21.5; then a stage of one step."""
    monitor = RunMonitor(run, None, RunMonitor.display())
    monitor.begin(stage("first", epochs=2), 22, 0)
    for step in range(1, SCALARS_EVERY + 3):
        monitor.step(stage("first", epochs=2), step, {"loss": float(step)})
    monitor.begin(stage("short", epochs=1), 1, 0)
    monitor.step(stage("short", epochs=1), 23, {"loss": 7.0})
    monitor.close()
    assert logged(run) == [
        {"stage": "first", "step": 20, "loss": 10.5},
        {"stage": "first", "step": 22, "loss": 21.5},
        {"stage": "short", "step": 23, "loss": 7.0},
    ]


def test_the_bar_counts_the_steps_that_the_minutes_give(run):
    """5 steps in 15 s of a minute make 20 in all, of the 1000 of the epochs; without minutes it is 1000."""
    for minutes, expected in ((1.0, 20), (None, 1000)):
        monitor = RunMonitor(run, None, RunMonitor.display())
        limited = stage("attack", epochs=10, minutes=minutes)
        monitor.begin(limited, 1000, 4)
        run.at.seconds = 15.0
        monitor.step(limited, 5, {"loss": 1.0})
        [task] = monitor.progress.tasks
        assert (task.completed, task.total) == (5, expected)
        monitor.close()
