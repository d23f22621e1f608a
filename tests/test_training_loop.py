"""The loop on tiny networks: what each stage trains, and resuming, which must change nothing."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.tiny_training import (
    CONFIG,
    STEPS,
    Silent,
    settings,
    tiny_pack,
    tiny_run,
    weights_of,
)
from training.batches import take
from training.checkpoint import CheckpointError, load_checkpoint, load_networks, save_checkpoint
from training.data.errors import DataError
from training.schedule import loss_weights
from training.surrogates.card import SurrogateError


def test_a_killed_run_continued_equals_an_uninterrupted_one(tmp_path):
    tiny_run(tmp_path / "whole").train(Silent())
    for _ in range(STEPS):  # killed after every single step
        tiny_run(tmp_path / "killed").train(Silent(), stop_after_steps=1)
    tiny_run(tmp_path / "killed").train(Silent())
    whole, killed = weights_of(tmp_path / "whole"), weights_of(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(killed[name], tensor, rtol=0, atol=0, msg=name)


def test_every_stage_trains_its_own_networks_and_freezes_the_others(tmp_path):
    """Batch statistics move in the first stage alone."""
    trained = {
        "attributes": ("generator.encoder", "generator.decoder", "discriminator."),
        "attack": ("generator.perturbation_encoder", "restorer.", "discriminator."),
        "erasure": ("restorer.",),
    }
    run = tiny_run(tmp_path)

    def tensors() -> dict[str, torch.Tensor]:
        return {
            f"{name}.{key}": tensor.clone()
            for name, network in run.networks.items().items()
            for key, tensor in network.state_dict().items()
        }

    for stage, steps in zip(run.stages, (2, 4, 2), strict=True):
        before = tensors()
        run.train(Silent(), stop_after_steps=steps - 1)
        assert run.stages[run.at.stage] is stage
        after = tensors()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert all(name.startswith(trained[stage.name]) for name in changed), stage.name
        for prefix in trained[stage.name]:
            assert any(name.startswith(prefix) for name in changed), (stage.name, prefix)
        statistics = [name for name in changed if "running" in name or "num_batches" in name]
        assert bool(statistics) == (stage.name == "attributes")
        run.train(Silent(), stop_after_steps=1)  # enters the next stage


def test_losses_are_logged_unweighted(tmp_path):
    monitor = Silent()
    tiny_run(tmp_path).train(monitor)
    attack = [figures for stage, figures in monitor.figures if stage == "attack"]
    assert {"attack", "erasure", "perturbation", "primary_r0", "primary_r2", "auxiliary"} <= attack[0].keys()
    weights = loss_weights(CONFIG.attack, 0.0)
    names = ("attack", "erasure", "perturbation", "lpips", "attribute", "generator")
    total = sum(weights[name] * attack[0][name] for name in names)
    assert attack[0]["total_protector"] == pytest.approx(total, rel=1e-4)


def test_the_averaged_networks_are_what_is_loaded(tmp_path):
    tiny_run(tmp_path).train(Silent())
    config, generator, restorer, discriminator, about = load_networks(tmp_path)
    assert config == CONFIG
    assert about["stage"] == "done"
    assert about["steps"] == STEPS
    saved = load_checkpoint(tmp_path)["averaged"]
    for name, network in (("generator", generator), ("restorer", restorer), ("discriminator", discriminator)):
        assert not network.training
        for key, tensor in network.state_dict().items():
            assert torch.equal(tensor, saved[name][key])


def test_another_configuration_does_not_resume(tmp_path):
    tiny_run(tmp_path).train(Silent(), stop_after_steps=1)
    other = dataclasses.replace(CONFIG, seed=1)
    with pytest.raises(CheckpointError, match=r"another configuration.*seed was 0, is 1"):
        tiny_run(tmp_path, other)


def test_a_run_that_was_given_something_else_does_not_resume(tmp_path):
    tiny_run(tmp_path, commit="one").train(Silent(), stop_after_steps=1)
    with pytest.raises(CheckpointError, match="target was 'nobody', is 'somebody'"):
        tiny_run(tmp_path, given={"target": "somebody"})
    assert tiny_run(tmp_path, commit="two").about["commits"] == ["one", "two"]


def test_too_few_surrogates_or_faces_are_said_before_training(tmp_path):
    with pytest.raises(SurrogateError, match="at least 2 surrogates to take turns, found 1"):
        tiny_run(tmp_path / "run", surrogates=1)
    large = dataclasses.replace(CONFIG, erasure=dataclasses.replace(CONFIG.erasure, batch=99))
    with pytest.raises(DataError, match="at least one batch of 99 faces, found 8"):
        tiny_run(tmp_path / "run", large)
    assert not (tmp_path / "run").exists()


def test_a_missing_or_damaged_checkpoint_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_networks(tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_networks(tmp_path)


def test_a_loss_without_a_weight_is_an_error(tmp_path):
    weights = {**CONFIG.attributes.weights}
    del weights["attribute_real"]
    config = dataclasses.replace(CONFIG, attributes=dataclasses.replace(CONFIG.attributes, weights=weights))
    with pytest.raises(ValueError, match="no weight for the losses attribute_real"):
        tiny_run(tmp_path, config).train(Silent())


def test_a_checkpoint_from_before_a_setting_existed_goes_on_with_its_default(tmp_path):
    tiny_run(tmp_path).train(Silent(), stop_after_steps=1)
    state = load_checkpoint(tmp_path)
    del state["config"]["attack_settings"]["share_batch"]
    save_checkpoint(tmp_path, state)
    tiny_run(tmp_path).train(Silent(), stop_after_steps=1)
    with pytest.raises(CheckpointError, match=r"attack_settings\.share_batch was False, is True"):
        tiny_run(tmp_path, settings(share_batch=True))


def test_losses_are_float32_in_bfloat16_training(tmp_path):
    run = tiny_run(tmp_path, dataclasses.replace(CONFIG, precision="bf16"))
    run.train(Silent(), stop_after_steps=2)
    for stage in run.stages[1:]:
        stage.begin()
        stage.modes()
        batch = take(tiny_pack(), np.arange(4), np.zeros(4, dtype=bool))
        with run.ranks.autocast():
            outputs = stage.forward(batch, 0)
            losses = [loss for player in stage.players for loss in player.losses(outputs).values()]
        assert {value.dtype for value in [*losses, *stage.figures(outputs).values()]} == {torch.float32}
