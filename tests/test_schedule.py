"""A stage's progress, learning rate and weights, and stages that end by the clock."""

import dataclasses

import pytest

from tests.tiny_training import CONFIG, Silent, tiny_run, weights_of
from training.checkpoint import load_checkpoint, save_checkpoint
from training.schedule import COSINE_FLOOR, learning_rate, loss_weights, stage_progress

STAGE = dataclasses.replace(CONFIG.attributes, epochs=4, learning_rate=1e-3)


def progress_at(seconds: float, minutes: float | None) -> float:
    config = dataclasses.replace(STAGE, minutes=minutes)
    return stage_progress(config, steps=6, steps_per_epoch=3, seconds=seconds)


def test_progress_is_the_further_of_epochs_and_minutes():
    """6 of 4 * 3 steps is a half; 45 of 60 seconds three quarters."""
    assert progress_at(45, minutes=None) == 0.5
    assert progress_at(15, minutes=1) == 0.5
    assert progress_at(45, minutes=1) == 0.75
    assert stage_progress(dataclasses.replace(STAGE, epochs=0), steps=0, steps_per_epoch=3, seconds=0) == 1


def test_the_learning_rate_is_constant_or_half_a_cosine():
    """cos(0) = 1, cos(pi / 2) = 0, cos(pi) = -1."""
    cosine = dataclasses.replace(STAGE, lr_schedule="cosine")
    assert [learning_rate(STAGE, p) for p in (0, 0.5, 1)] == [1e-3] * 3
    expected = [1e-3, 1e-3 * (1 + COSINE_FLOOR) / 2, 1e-3 * COSINE_FLOOR]
    assert [learning_rate(cosine, p) for p in (0, 0.5, 1)] == pytest.approx(expected)
    assert learning_rate(cosine, 1.5) == learning_rate(cosine, 1.0)


def with_stages(**changes):
    names = ("attributes", "attack", "erasure")
    return dataclasses.replace(
        CONFIG, **{name: dataclasses.replace(getattr(CONFIG, name), **changes) for name in names}
    )


def test_a_cosine_run_resumes_exactly(tmp_path):
    config = with_stages(lr_schedule="cosine")
    tiny_run(tmp_path / "whole", config).train(Silent())
    tiny_run(tmp_path / "killed", config).train(Silent(), stop_after_steps=3)
    tiny_run(tmp_path / "killed", config).train(Silent())
    whole, killed = weights_of(tmp_path / "whole"), weights_of(tmp_path / "killed")
    assert all(whole[name].equal(killed[name]) for name in whole)


def test_a_stage_ends_when_its_minutes_are_over(tmp_path):
    """Any step takes longer than a microsecond: one step a stage, whatever the epochs."""
    config = with_stages(minutes=1e-6 / 60, epochs=9)
    monitor = Silent()
    tiny_run(tmp_path, config).train(monitor)
    assert [name for name, _ in monitor.figures] == ["attributes", "attack", "erasure"]
    assert load_checkpoint(tmp_path)["about"]["stage"] == "done"


def test_the_time_spent_in_a_stage_outlives_the_process(tmp_path):
    config = with_stages(minutes=60.0)
    tiny_run(tmp_path, config).train(Silent(), stop_after_steps=1)
    state = load_checkpoint(tmp_path)
    assert 0 < state["position"]["seconds"] < 60
    state["position"]["seconds"] = 3600.0
    save_checkpoint(tmp_path, state)
    monitor = Silent()
    tiny_run(tmp_path, config).train(monitor)
    assert {name for name, _ in monitor.figures} == {"attack", "erasure"}


def test_a_checkpoint_from_before_the_schedule_goes_on(tmp_path):
    config = with_stages(lr_schedule="constant")
    tiny_run(tmp_path, config).train(Silent(), stop_after_steps=1)
    state = load_checkpoint(tmp_path)
    del state["position"]["seconds"], state["config"]["attack"]["minutes"]
    del state["config"]["attack"]["lr_schedule"]
    save_checkpoint(tmp_path, state)
    run = tiny_run(tmp_path, config)
    assert run.at.seconds == 0
    run.train(Silent(), stop_after_steps=1)


def test_a_ramped_weight_grows_over_its_share_of_the_stage():
    config = dataclasses.replace(
        CONFIG.attack, weights={"lpips": 400.0, "attack": 200.0}, ramps={"lpips": 0.5}
    )
    assert loss_weights(config, 0.0) == {"lpips": 40.0, "attack": 200.0}
    assert loss_weights(config, 0.25)["lpips"] == pytest.approx(400 * (0.1 + 0.9 / 2))
    assert loss_weights(config, 0.5) == loss_weights(config, 1.0) == {"lpips": 400.0, "attack": 200.0}


def test_the_steps_of_a_run_follow_its_ramps(tmp_path):
    """The total of a single weighted loss over that loss is its weight."""
    weights = {name: float(name == "perturbation") for name in CONFIG.attack.weights}
    config = dataclasses.replace(
        CONFIG, attack=dataclasses.replace(CONFIG.attack, weights=weights, ramps={"perturbation": 1.0})
    )
    monitor = Silent()
    tiny_run(tmp_path, config).train(monitor)
    steps = [figures for name, figures in monitor.figures if name == "attack"]
    factors = [figures["total_protector"] / figures["perturbation"] for figures in steps]
    assert factors == pytest.approx([0.1 + 0.9 * i / len(steps) for i in range(len(steps))])


def test_a_ramp_over_nothing_is_none():
    config = dataclasses.replace(CONFIG.attack, weights={"lpips": 400.0}, ramps={"lpips": 0.0})
    assert loss_weights(config, 0.0) == {"lpips": 400.0}


@pytest.mark.parametrize("ramps", [{"lpip": 0.5}, {"lpips": -0.1}, {"lpips": 1.5}])
def test_ramps_are_of_losses_with_a_weight_and_over_a_share(ramps):
    with pytest.raises(ValueError, match="expected ramps of losses that have a weight"):
        dataclasses.replace(CONFIG.attack, ramps=ramps)
