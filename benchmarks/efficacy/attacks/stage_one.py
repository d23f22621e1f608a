"""What attacks use of a training run's first stage: attribute editing and attribute recognition."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from runtime.manifest import sha256_of
from training.checkpoint import CHECKPOINT_NAME, load_networks
from training.networks import Discriminator, Generator


@dataclass(frozen=True, kw_only=True)
class StageOne:
    """The networks that stage 1 trained: ``G_enc``, ``G_dec`` and the discriminator. Faces are in [0, 1].

    Attributes:
        attributes: names in the order of the attribute vector.
        sha256: of the checkpoint.
    """

    generator: Generator
    discriminator: Discriminator
    attributes: tuple[str, ...]
    sha256: str

    def attributes_of(self, faces: Tensor) -> Tensor:
        """``(N, n)`` of 0 and 1, as ``D_att`` sees them."""
        with torch.no_grad():
            return (self.discriminator(2 * faces - 1)[1] > 0).float()

    def features(self, faces: Tensor) -> Tensor:
        """``(N, d)``: what the attribute head of ``D`` reads, differentiable in the faces."""
        return self.discriminator.trunk(2 * faces - 1)

    def edit(self, faces: Tensor, attributes: Tensor) -> Tensor:
        """``G_dec(G_enc(x), att_b)``, differentiable in the faces."""
        return (self.generator.clean(2 * faces - 1, attributes).face + 1) / 2

    def flipped(self, own: Tensor, name: str) -> Tensor:
        """Attribute vectors with one attribute turned to its opposite."""
        edited = own.clone()
        edited[:, self.attributes.index(name)] = 1 - edited[:, self.attributes.index(name)]
        return edited


def load_stage_one(run: Path, *, crop_px: int) -> StageOne:
    """The networks of a run, made for faces of that size.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        ValueError: they are for faces of another size.
    """
    config, generator, _, discriminator, about = load_networks(run)
    if config.network.image_size != crop_px:
        raise ValueError(
            f"{run} was trained on faces of {config.network.image_size} px, expected {crop_px} px as of the "
            "bundle; give the run that it was exported from"
        )
    return StageOne(
        generator=generator,
        discriminator=discriminator,
        attributes=tuple(about["attributes"]),
        sha256=sha256_of((run / CHECKPOINT_NAME).read_bytes()),
    )
