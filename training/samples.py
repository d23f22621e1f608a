"""Sample grids: what the networks do to a few faces, as a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torchvision.utils import make_grid, save_image

from .anonymiser_config import AnonymiserNetworkConfig, AnonymiserSettings
from .batches import Batch
from .config import AttackConfig
from .networks import AnonymiserNetworks, Networks, Noise

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
    return _grid([batch.face, edited, protected, restored, (protected - batch.face) * DIFFERENCE_GAIN])


@torch.no_grad()
def anonymised_grid(
    networks: AnonymiserNetworks,
    batch: Batch,
    network: AnonymiserNetworkConfig,
    settings: AnonymiserSettings,
    publish: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Rows of source, what the front-end leaves of it, two anonymisations, and the first one reconstructed.

    The noise is the same in every grid, so that grids can be compared.

    Args:
        networks: in evaluation mode.
        batch: faces that are not trained on.
        network: sizes, for the noise.
        publish: how a face is pasted back.

    Returns:
        ``(3, H, W)`` in [0, 1], a column for each face.
    """
    random = torch.Generator().manual_seed(0)
    anonymiser = networks.anonymiser
    noises = [
        Noise.draw(
            lambda *shape: torch.randn(len(batch), *shape, generator=random),
            image_size=network.image_size,
            cells=network.cells,
        )
        for _ in range(2)
    ]
    left = anonymiser.left(batch.face, noises[0].grain, settings.strength).expand(-1, 3, -1, -1)
    first, second = (
        publish(batch.face, anonymiser(batch.face, *noise, settings.strength)) for noise in noises
    )
    return _grid([batch.face, left, first, second, networks.reconstructor(first)])


def _grid(rows: list[Tensor]) -> Tensor:
    """Rows of pictures ``(N, 3, S, S)`` in [-1, 1]; what lies outside is clipped."""
    return make_grid((torch.cat(rows).float() + 1).div(2).clamp(0, 1), nrow=len(rows[0]), padding=2)


def write_grid(grid: Tensor, path: Path) -> None:
    """Saves a grid as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(grid, path)
