"""Checkpoints: everything a run needs to go on, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from .config import AnonymiserConfig, RunConfig, SharedConfig, config_from_dict
from .networks import AnonymiserNetworks, Discriminator, Generator, Networks, NetworkSet, Restorer

CHECKPOINT_NAME = "checkpoint.pt"


class CheckpointError(Exception):
    """A checkpoint is missing, damaged, or of another configuration."""


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Writes ``checkpoint.pt`` through a temporary file, so that a killed run leaves the old one."""
    partial = folder / (CHECKPOINT_NAME + ".partial")
    torch.save(state, partial)
    os.replace(partial, folder / CHECKPOINT_NAME)


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Reads a run's checkpoint.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    path = folder / CHECKPOINT_NAME
    if not path.exists():
        raise CheckpointError(f"no checkpoint at {path}; train first: python -m training --out {folder} ...")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def slim_checkpoint(run: Path, out: Path) -> None:
    """Writes what export, and a run that goes on with these networks, need of a checkpoint: the averages.

    Without optimisers and the networks as they stood, it is about a third of the size, and cannot be resumed.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or ``out`` has one already.
    """
    state = load_checkpoint(run)
    if (out / CHECKPOINT_NAME).exists():
        raise CheckpointError(f"{out / CHECKPOINT_NAME} exists already; give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    save_checkpoint(out, {key: state[key] for key in ("config", "about", "position", "averaged")})


def load_networks(folder: Path) -> tuple[RunConfig, Generator, Restorer, Discriminator, dict[str, Any]]:
    """The networks of a run of the mask as they are exported: averaged weights, evaluation mode.

    Returns:
        Configuration, generator, restorer, discriminator, and the checkpoint's ``about`` (stage, steps,
        commit, surrogates, target and so on).

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or another system's.
    """
    config, networks, about = load_system(folder)
    if not isinstance(config, RunConfig) or not isinstance(networks, Networks):
        raise CheckpointError(f"expected a run of the mask in {folder}, found one of the {config.system}")
    return config, networks.generator, networks.restorer, networks.discriminator, about


def load_anonymiser(folder: Path) -> tuple[AnonymiserConfig, AnonymiserNetworks, dict[str, Any]]:
    """As ``load_networks``, of a run of the anonymiser: configuration, networks and ``about``.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or another system's.
    """
    config, networks, about = load_system(folder)
    if not isinstance(config, AnonymiserConfig) or not isinstance(networks, AnonymiserNetworks):
        raise CheckpointError(
            f"expected a run of the anonymiser in {folder}, found one of the {config.system}"
        )
    return config, networks, about


def load_system(folder: Path) -> tuple[SharedConfig, NetworkSet, dict[str, Any]]:
    """As ``load_networks``, of whatever system: configuration, networks and ``about``.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
    """
    state = load_checkpoint(folder)
    try:
        config = config_from_dict(state["config"])
        networks = config.network.networks()
        for name, network in networks.items().items():
            network.load_state_dict(state["averaged"][name])
            network.eval().requires_grad_(False)
    except (KeyError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"{folder / CHECKPOINT_NAME} is not of this version: {error}") from error
    return config, networks, state["about"]
