"""A training run's folder with tiny random networks, for the tests of the export."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.checkpoint import save_checkpoint
from training.config import NetworkConfig
from training.networks import ContextEncoder
from training.presets import COMPACT

SIZE = 32
NAMES = ("Bangs", "Eyeglasses", "Male", "Young")
TARGET = "a synthetic face, nobody's identity"
TINY = dataclasses.replace(
    COMPACT,
    name="tiny",
    network=NetworkConfig(
        image_size=SIZE,
        width=4,
        depth=3,
        shortcut_layers=1,
        inject_layers=1,
        discriminator_width=4,
        discriminator_depth=3,
        discriminator_hidden=8,
        discriminator_max_channels=16,
        n_attributes=len(NAMES),
        perturbation_context=True,
    ),
)


def save_run(folder: Path, about: dict[str, Any] | None = None) -> Path:
    """A run's folder as the training loop leaves it, with random networks that do not look untrained."""
    torch.manual_seed(1)
    networks: dict[str, nn.Module] = {
        "generator": TINY.network.generator(),
        "restorer": TINY.network.restorer(),
        "discriminator": TINY.network.discriminator(),
    }
    for network in networks.values():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.05, 0.2)
                nn.init.normal_(module.bias, std=0.2)
            if isinstance(module, ContextEncoder):
                for refinement in module.refinements:
                    nn.init.normal_(refinement[-1].weight, std=0.1)
    weights = {name: network.state_dict() for name, network in networks.items()}
    told = {"attributes": list(NAMES), "target": TARGET, "commits": ["c0ffee"], "steps": 12, "stage": "done"}
    folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(
        folder,
        {
            "config": dataclasses.asdict(TINY),
            "about": told if about is None else about,
            "position": {"stage": 3, "epoch": 0, "step": 0, "global_step": 12},
            "networks": weights,
            "averaged": weights,
            "n_averaged": dict.fromkeys(weights, 12),
            "optimizers": {},
            "stage_state": {},
        },
    )
    return folder
