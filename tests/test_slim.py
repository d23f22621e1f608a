"""Slim checkpoints: export and further runs take them, resuming does not."""

import pytest
import torch
from click.testing import CliRunner

from tests.tiny_training import CONFIG, Silent, tiny_run
from training.checkpoint import CHECKPOINT_NAME, CheckpointError, load_networks
from training.slim import main


@pytest.fixture
def runs(tmp_path):
    tiny_run(tmp_path / "run").train(Silent())
    done = CliRunner().invoke(main, [str(tmp_path / "run"), str(tmp_path / "slim")])
    assert done.exit_code == 0, done.output
    return tmp_path / "run", tmp_path / "slim"


def test_a_slim_checkpoint_is_loaded_as_the_whole_one(runs):
    (config, *whole, about), (slim_config, *slim, slim_about) = map(load_networks, runs)
    assert (slim_config, slim_about) == (config, about)
    for ours, theirs in zip(whole, slim, strict=True):
        for name, tensor in ours.state_dict().items():
            torch.testing.assert_close(theirs.state_dict()[name], tensor, rtol=0, atol=0)
    sizes = [(folder / CHECKPOINT_NAME).stat().st_size for folder in runs]
    assert sizes[1] < 0.6 * sizes[0]


def test_a_run_begins_with_a_slim_checkpoint_but_does_not_resume_it(runs, tmp_path):
    _, slim = runs
    tiny_run(tmp_path / "next", continues=slim, first_stage="erasure").train(Silent(), stop_after_steps=1)
    with pytest.raises(CheckpointError, match="slim checkpoint, for export alone; begin another run"):
        tiny_run(slim, CONFIG)


def test_no_checkpoint_is_overwritten(runs):
    run, slim = runs
    done = CliRunner().invoke(main, [str(run), str(slim)])
    assert done.exit_code == 1
    assert "exists already; give a new folder" in done.output
