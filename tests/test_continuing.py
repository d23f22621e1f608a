"""Runs that begin with what another has trained."""

import dataclasses

import pytest
import torch

from tests.tiny_training import (
    CONFIG,
    Silent,
    settings,
    tiny_run,
)
from training.checkpoint import CheckpointError, load_checkpoint


def test_a_run_may_begin_with_the_first_stage_of_another(tmp_path):
    first = tiny_run(tmp_path / "first")
    first.train(Silent(), stop_after_steps=2)
    trained = load_checkpoint(tmp_path / "first")["averaged"]["generator"]
    faster = dataclasses.replace(CONFIG, attack=dataclasses.replace(CONFIG.attack, epochs=1))
    run = tiny_run(tmp_path / "second", faster, continues=tmp_path / "first", first_stage="attack")
    assert run.stages[run.at.stage].name == "attack"
    assert torch.equal(
        run.networks.generator.encoder.layers[0][0].weight, trained["encoder.layers.0.0.weight"]
    )
    assert run.about["continues"]["run"] == "first"
    run.train(Silent())
    assert load_checkpoint(tmp_path / "second")["about"]["continues"]["steps"] == 2


def test_a_run_may_begin_with_the_attack_of_another(tmp_path):
    tiny_run(tmp_path / "first").train(Silent())
    theirs = load_checkpoint(tmp_path / "first")["averaged"]
    run = tiny_run(tmp_path / "second", continues=tmp_path / "first", first_stage="erasure")
    run.train(Silent())
    ours = load_checkpoint(tmp_path / "second")["averaged"]
    for name, tensor in ours["generator"].items():
        assert torch.equal(tensor, theirs["generator"][name])
    assert not torch.equal(
        ours["restorer"]["encoder.layers.0.0.weight"], theirs["restorer"]["encoder.layers.0.0.weight"]
    )


def test_a_first_stage_must_be_over_and_of_the_same_size(tmp_path):
    tiny_run(tmp_path / "first").train(Silent(), stop_after_steps=1)
    with pytest.raises(CheckpointError, match="is still in its stage 'attributes'"):
        tiny_run(tmp_path / "second", continues=tmp_path / "first", first_stage="attack")
    tiny_run(tmp_path / "first").train(Silent(), stop_after_steps=1)
    wider = dataclasses.replace(CONFIG, network=dataclasses.replace(CONFIG.network, width=8))
    with pytest.raises(CheckpointError, match="another size: width was 4, is 8"):
        tiny_run(tmp_path / "second", wider, continues=tmp_path / "first", first_stage="attack")


def test_another_runs_stage_is_begun_anew_or_kept_as_trained(tmp_path):
    tiny_run(tmp_path / "other").train(Silent(), stop_after_steps=4)  # two steps into stage 2
    trained = load_checkpoint(tmp_path / "other")["averaged"]["generator"]
    name = "perturbation_encoder.layers.0.0.weight"
    assert not torch.equal(trained[name], trained["encoder.layers.0.0.weight"])
    for keep, expected in ((True, trained[name]), (False, trained["encoder.layers.0.0.weight"])):
        run = tiny_run(
            tmp_path / str(keep),
            settings(chroma_weight=2.0),
            continues=tmp_path / "other",
            first_stage="attack",
            keep_trained=keep,
        )
        assert (run.at.stage, run.at.step) == (1, 0)
        torch.testing.assert_close(run.networks.generator.state_dict()[name], expected, rtol=0, atol=0)
        assert run.about["continues"]["keep_trained"] is keep
