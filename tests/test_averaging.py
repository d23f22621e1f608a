"""The moving average: warm-up by hand, buffers included."""

import pytest
import torch
from torch import nn

from training.averaging import averaged, warmed_decay


def test_warm_up_by_hand():
    """After 8 updates 9/18 = 0.5; far on the decay itself binds."""
    assert warmed_decay(0.9, 8) == 0.5
    assert warmed_decay(0.9, 10_000) == 0.9


def test_first_update_copies_and_the_second_mixes():
    """n = 1: decay 2/11, so the average moves 9/11 of the way from 1 to 3."""
    network = nn.BatchNorm1d(1)
    average = averaged(network, 0.999)
    nn.init.constant_(network.weight, 1.0)
    average.update_parameters(network)
    assert average.module.weight.item() == 1.0
    nn.init.constant_(network.weight, 3.0)
    network.running_mean.fill_(11.0)
    network.num_batches_tracked.fill_(5)
    average.update_parameters(network)
    assert average.module.weight.item() == pytest.approx(1 + 2 * 9 / 11)
    assert average.module.running_mean.item() == pytest.approx(9.0)
    assert average.module.num_batches_tracked.item() == 5


def test_no_decay_is_the_last_weights():
    network = nn.Linear(1, 1)
    average = averaged(network, 0.0)
    for value in (1.0, 2.0):
        nn.init.constant_(network.weight, value)
        average.update_parameters(network)
    assert torch.equal(average.module.weight, network.weight)
