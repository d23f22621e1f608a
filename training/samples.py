"""Sample grids: what the networks do to a few faces, as a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torchvision.utils import make_grid, save_image

from .batches import Batch
from .config import AttackConfig
from .stages import Networks

DIFFERENCE_GAIN = 5.0


@torch.no_grad()
def sample_grid(
    networks: Networks,
    batch: Batch,
    attack: AttackConfig,
    publish: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Rows of source, edited, protected, restored and the difference times ``DIFFERENCE_GAIN``.

    Args:
        networks: in evaluation mode.
        batch: faces that are not trained on.
        publish: how a face is pasted back.

    Returns:
        ``(3, H, W)`` in [0, 1], a column for each face.
    """
    generator, restorer = networks.generator, networks.restorer
    edited = generator.edit(batch.face, batch.attributes.roll(1, 0))
    protected = publish(
        batch.face, generator(batch.face, batch.attributes, attack.strength, attack.injection)
    )
    restored = publish(protected, restorer(protected))
    rows = [batch.face, edited, protected, restored, (protected - batch.face) * DIFFERENCE_GAIN]
    return make_grid((torch.cat(rows).float() + 1).div(2).clamp(0, 1), nrow=len(batch), padding=2)


def write_grid(grid: Tensor, path: Path) -> None:
    """Saves a grid as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(grid, path)
