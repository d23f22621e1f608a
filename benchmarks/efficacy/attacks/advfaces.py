"""AdvFaces: a generator that adds a small perturbation in one pass, trained against a discriminator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .base import Attack


@dataclass(frozen=True, kw_only=True)
class AdvFaces(Attack):
    """Deb, Zhang, Jain, "AdvFaces: Adversarial Face Synthesis", IJCB 2020, with a trained generator.

    Args:
        generator: see ``advfaces_training.train``.
        width: of its first layer.
        steps: it was trained for.
        faces_per_step: in each of them.
        perturbation_norm: bound of the hinge on the perturbation's Euclidean norm, of faces in [0, 1].
        training_minutes: that took.
        checkpoint_sha256: of the file that the generator was read from.
    """

    generator: nn.Module
    width: int
    steps: int
    faces_per_step: int
    perturbation_norm: float
    training_minutes: float
    checkpoint_sha256: str

    @torch.no_grad()
    def perturb(self, faces: Tensor) -> Tensor:
        """See ``Attack.perturb``."""
        return (faces + self.generator(faces)).clamp(0, 1)


class PerturbationGenerator(nn.Module):
    """The paper's generator: two layers down, three residual blocks, two up; instance norm.

    Args:
        width: channels of the first layer; the paper's is 64.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.Sequential(
            _layer(3, width, 7),
            _layer(width, 2 * width, 4, stride=2),
            _layer(2 * width, 4 * width, 4, stride=2),
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(_layer(4 * width, 4 * width, 3), _convolution(4 * width, 4 * width, 3))
            for _ in range(3)
        )
        self.up = nn.ModuleList([_layer(4 * width, 2 * width, 5), _layer(2 * width, width, 5)])
        self.last = _convolution(width, 3, 7)

    def forward(self, faces: Tensor) -> Tensor:
        """The perturbation in (-1, 1) of faces ``(N, 3, S, S)`` in [0, 1], S a multiple of 4."""
        h = self.down(2 * faces - 1)
        for block in self.blocks:
            h = h + block(h)
        for layer in self.up:
            h = layer(functional.interpolate(h, scale_factor=2.0, mode="nearest"))
        return torch.tanh(self.last(h))


class PatchDiscriminator(nn.Module):
    """The paper's discriminator: five layers, each halving the picture, then a logit for every patch.

    Args:
        width: channels of the first layer; the paper's is 32.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels_in = 3
        for level in range(5):
            channels_out = width * 2**level
            layers.append(nn.Conv2d(channels_in, channels_out, 4, stride=2, padding=1))
            if level > 1:
                layers.append(nn.BatchNorm2d(channels_out))
            layers.append(nn.LeakyReLU(0.2))
            channels_in = channels_out
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels_in, 1, 1))

    def forward(self, faces: Tensor) -> Tensor:
        """Logits, a row for each patch of each face: ``(N * patches, 1)``; higher = taken for real."""
        return self.layers(2 * faces - 1).reshape(-1, 1)


def _convolution(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    padding = (kernel - 1) // 2
    return nn.Conv2d(
        channels_in, channels_out, kernel, stride=stride, padding=padding, padding_mode="reflect"
    )


def _layer(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = _convolution(channels_in, channels_out, kernel, stride)
    return nn.Sequential(convolution, nn.InstanceNorm2d(channels_out, affine=True), nn.ReLU())
