"""Tiny training runs of the anonymiser: networks, faces and recognisers of a few pixels, for the tests."""

import dataclasses

import torch

from tests.tiny_run import SIZE
from tests.tiny_training import tiny_pack, tiny_recognizer
from training.anonymiser_config import AnonymiserConfig, AnonymiserNetworkConfig
from training.anonymiser_presets import ANONYMISER_COMPACT
from training.loop import Run
from training.noise_pool import NoisePool
from training.ranks import launch
from training.tasks import AnonymiserTask

ANONYMISER = dataclasses.replace(
    ANONYMISER_COMPACT,
    name="tiny",
    network=AnonymiserNetworkConfig(
        image_size=SIZE, width=4, depth=3, shortcut_layers=2, reconstructor_width=4
    ),
    anonymise=dataclasses.replace(ANONYMISER_COMPACT.anonymise, epochs=2, batch=4, learning_rate=1e-3),
    noise=NoisePool(resize_factor=0.5),
    precision="fp32",
    ema_decay=0.9,
)
STEPS = 2 * 2


def anonymiser_run(folder, config: AnonymiserConfig = ANONYMISER, surrogates=2, **options) -> Run:
    torch.manual_seed(config.seed)
    ranks = launch(accelerator="cpu", precision=config.precision)
    task = AnonymiserTask(config, [tiny_recognizer(i) for i in range(surrogates)])
    networks = config.network.networks()
    return Run(
        folder, config, networks, task.stages(networks, ranks), tiny_pack(), {}, ranks=ranks, **options
    )
