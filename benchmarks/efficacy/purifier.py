"""A U-Net that a hacker trains on pairs made with the public bundle alone: it undoes what the bundle does."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.batches import to_network
from training.draws import Draws
from training.losses import reconstruction_loss, structure_loss
from training.noise_pool import NoisePool
from training.presets import COMPACT
from training.stages.publish import Publish, Realignment

from .pairs import Pairs
from .resumable import Resumable

# A photo's resolution is not the crop's, so a published face is a little softer or sharper than a pair's.
SOFTENED = NoisePool(jpeg_quality=(75.0, 95.0), gaussian_variance=0.0001, resize_factor=0.75, clean_share=0.5)


class Purifier(nn.Module):
    """A U-Net (Ronneberger et al., 2015) that adds a correction to a face.

    Args:
        channels: of each level, the first at full size; each next one has half the side.
    """

    def __init__(self, channels: Sequence[int] = (16, 32, 64, 128, 256)) -> None:
        super().__init__()
        self.down = nn.ModuleList(map(_block, (3, *channels[:-1]), channels))
        self.up = nn.ModuleList(
            _block(below + own, own) for below, own in zip(channels[:0:-1], channels[-2::-1], strict=True)
        )
        self.out = nn.Conv2d(channels[0], 3, 1)
        for parameter in self.out.parameters():  # it begins as the identity
            nn.init.zeros_(parameter)

    def forward(self, face: Tensor) -> Tensor:
        """``(N, 3, S, S)`` in [-1, 1] to the same; S a multiple of 2 to the number of levels less one."""
        h, skipped = face, []
        for level, block in enumerate(self.down):
            h = block(functional.max_pool2d(h, 2) if level else h)
            skipped.append(h)
        for block, skip in zip(self.up, skipped[-2::-1], strict=True):
            h = block(torch.cat([functional.interpolate(h, scale_factor=2), skip], dim=1))
        return face + self.out(h)


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.LeakyReLU(0.1),
        nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.LeakyReLU(0.1),
    )


@dataclass(frozen=True, kw_only=True)
class Learning:
    """How a purifier is trained.

    Attributes:
        pairs: how many pairs the hacker has.
        steps: the same for every number of pairs, so that these alone make the difference.
        noise: what a batch meets before the purifier sees it.
        jitter: how far the alignment strays, see ``Realignment``.
        masked: what the purifier makes is pasted back with the face's mask, and compared so.
        structure: weight of ``1 - SSIM`` in the loss.
    """

    pairs: int
    steps: int
    batch: int = 16
    learning_rate: float = 1e-3
    noise: NoisePool = SOFTENED
    jitter: float = COMPACT.realignment
    masked: bool = True
    structure: float = 0.0
    seed: int = 0


class PurifierTraining(Resumable):
    """A purifier's training that goes on where it stopped.

    Args:
        folder: keeps ``purifier-PAIRS.pt``.

    Raises:
        ValueError: there are too few pairs, or the folder holds a training with other settings or pairs.
    """

    def __init__(self, pairs: Pairs, learning: Learning, folder: Path) -> None:
        if len(pairs) < max(learning.pairs, learning.batch):
            raise ValueError(f"expected {learning.pairs} pairs, at least a batch, found {len(pairs)}")
        self.pairs, self.learning = pairs, learning
        torch.manual_seed(learning.seed)
        self.network = Purifier().to(memory_format=torch.channels_last)
        self.publish = Publish(pairs.clean.shape[1], masked=learning.masked)
        super().__init__(
            folder / f"purifier-{learning.pairs}.pt",
            {**dataclasses.asdict(learning), "made_with": pairs.made_with},
            self.network,
            torch.optim.Adam(self.network.parameters(), lr=learning.learning_rate),
            steps=learning.steps,
        )

    def _step(self) -> dict[str, float]:
        """The loss is the mean absolute difference to the clean face, in [-1, 1], and what structure adds."""
        learning = self.learning
        rng = np.random.default_rng([learning.seed, self.done])
        torch.manual_seed((learning.seed << 32) + self.done)
        chosen = rng.choice(learning.pairs, learning.batch, replace=False)
        published, clean = (to_network(faces[chosen]) for faces in (self.pairs.published, self.pairs.clean))
        flip = torch.rand(learning.batch, 1, 1, 1) < 0.5
        published, clean = (torch.where(flip, face.flip(3), face) for face in (published, clean))
        published, clean = Realignment.draw(learning.jitter, Draws(learning.batch)).pictures(published, clean)
        received = learning.noise(published).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            output = self.network(received)
        undone = self.publish(received, output)
        loss = reconstruction_loss(undone, clean)
        if learning.structure:
            loss = loss + learning.structure * structure_loss(undone, clean)
        self.optimizer.param_groups[0]["lr"] = (
            learning.learning_rate * (1 + math.cos(math.pi * self.done / learning.steps)) / 2
        )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": float(loss.detach())}
