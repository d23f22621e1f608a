"""Sample grids: what the networks do to a few faces, as a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torchvision.utils import make_grid, save_image

from .batches import Batch
from .config import AttackConfig
from .networks import Generator, Restorer

DIFFERENCE_GAIN = 5.0


@torch.no_grad()
def sample_grid(
    generator: Generator,
    restorer: Restorer,
    batch: Batch,
    attack: AttackConfig,
    publish: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Columns of source, edited, protected, restored and the difference times ``DIFFERENCE_GAIN``.

    Returns:
        ``(3, H, W)`` in [0, 1]: a row for each of the five, a column for each face.
    """
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
