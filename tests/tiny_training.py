"""Tiny training runs in memory: networks, faces and recognisers of a few pixels, for the tests."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from tests.tiny_run import SIZE, TINY
from training.checkpoint import load_checkpoint
from training.config import AttackConfig, RunConfig
from training.data import FacePack
from training.loop import Run
from training.noise_pool import NoisePool
from training.stages.publish import Publish
from training.surrogates import Recognizer, RecognizerCard
from training.tasks import make_stages

N = 8

CONFIG = dataclasses.replace(
    TINY,
    network=dataclasses.replace(TINY.network, n_attributes=3),
    attributes=dataclasses.replace(TINY.attributes, epochs=1, batch=4, learning_rate=1e-3),
    attack=dataclasses.replace(TINY.attack, epochs=2, batch=4, learning_rate=1e-3),
    erasure=dataclasses.replace(TINY.erasure, epochs=1, batch=4, learning_rate=1e-3),
    attack_settings=AttackConfig(
        sigma=1.0, epsilon=0.0, inner_lr=0.1, primaries_per_step=1, owner_weight=0.5
    ),
    noise=NoisePool(resize_factor=0.5),
    precision="fp32",
    ema_decay=0.9,
)
STEPS = 2 + 2 * 2 + 2


class Silent:
    """A monitor that keeps the figures."""

    def __init__(self):
        self.figures = []

    def begin(self, stage, total_steps, done_steps): ...

    def step(self, stage, global_step, figures):
        self.figures.append((stage.name, figures))

    def epoch(self, stage, epoch, global_step, figures): ...


def tiny_pack(n_attributes: int = 3) -> FacePack:
    rng = np.random.default_rng(0)
    landmarks = np.array([[12, 13], [20, 13], [16, 18], [13, 23], [19, 23]], dtype=np.float32)
    return FacePack(
        crops=rng.integers(0, 256, (N, SIZE, SIZE, 3), dtype=np.uint8),
        landmarks=landmarks + rng.normal(0, 0.3, (N, 5, 2)).astype(np.float32),
        attributes=rng.integers(0, 2, (N, n_attributes)).astype(np.uint8),
        identities=np.arange(N),
        names=tuple(f"{i}.png" for i in range(N)),
    )


def tiny_recognizer(seed: int) -> Recognizer:
    torch.manual_seed(100 + seed)
    network = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.Tanh(), nn.Flatten(), nn.LazyLinear(6))
    network(torch.zeros(1, 3, 28, 28))
    card = RecognizerCard(
        name=f"r{seed}",
        path=None,
        role="white-box",
        size_hw=(28, 28),
        box=(0, 0, 112, 112),
        thresholds={},
    )
    return Recognizer(card, network)


def mean_difference(picture: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Stands for LPIPS."""
    return (picture - reference).abs().flatten(1).mean(1)


def tiny_run(folder, config=CONFIG, surrogates=3, given=None, ranks=None, **options) -> Run:
    torch.manual_seed(config.seed)
    networks = config.network.networks()
    recognizers = [tiny_recognizer(i) for i in range(surrogates)]
    targets = [nn.functional.normalize(torch.ones(6), dim=0) for _ in recognizers]
    publish = Publish(SIZE, masked=config.paste_mask)
    stages = make_stages(config, networks, recognizers, targets, publish, mean_difference, ranks)
    given = given or {"target": "nobody"}
    return Run(folder, config, networks, stages, tiny_pack(), given, ranks=ranks, **options)


def weights_of(folder) -> dict[str, torch.Tensor]:
    state = load_checkpoint(folder)
    return {
        f"{kind}.{network}.{name}": tensor
        for kind in ("networks", "averaged")
        for network, tensors in state[kind].items()
        for name, tensor in tensors.items()
    }


def settings(**attack) -> RunConfig:
    return dataclasses.replace(CONFIG, attack_settings=dataclasses.replace(CONFIG.attack_settings, **attack))


def stop(training, step: int) -> None:
    """Saved at a step, as it is from time to time, and killed in the next one."""
    make_step = training._step

    def until(*arguments):
        if training.done == step:
            training.save()
            raise KeyboardInterrupt
        return make_step(*arguments)

    training._step = until
    with pytest.raises(KeyboardInterrupt):
        training.run(None)
