"""The face as it is published and found again: attributes, paste mask, alignment."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from runtime.geometry import feather_mask

from ..draws import Draws


class Publish:
    """``(source, output) -> source + mask * (output - source)``, as the runtime pastes a face back.

    Args:
        image_size: side of the crop.
        masked: False leaves the network's output as it is.
    """

    def __init__(self, image_size: int, *, masked: bool) -> None:
        self.mask = torch.from_numpy(feather_mask(image_size)) if masked else None

    def __call__(self, source: Tensor, output: Tensor) -> Tensor:
        output = output.float()
        if self.mask is None:
            return output
        self.mask = self.mask.to(source.device)  # once: a run stays on its device
        return source + self.mask * (output - source)


def edited_attributes(attributes: Tensor, edit_share: float) -> Tensor:
    """``att_b``: another face's attributes for ``edit_share`` of the batch, one's own for the others.

    Args:
        attributes: of the whole batch, on the CPU.
    """
    others = attributes[torch.randperm(len(attributes))]
    edited = torch.rand(len(attributes), 1) < edit_share
    return torch.where(edited, others, attributes)


def realigned(
    faces: Tensor, others: Tensor, jitter: float, draws: Draws | None = None
) -> tuple[Tensor, Tensor]:
    """Both pictures of each face under one small random similarity, as when its landmarks are found anew.

    The authority aligns by landmarks found on the published picture, which differ a little from those the
    protection was made with.

    Args:
        faces, others: ``(N, C, S, S)``.
        jitter: standard deviation of the turn in radians, of the logarithm of the scale, and of the shift
            as a share of the side; 0 changes nothing.
        draws: for faces that are part of a batch.
    """
    if jitter == 0:
        return faces, others
    draws = draws or Draws(len(faces))
    turn, scale = jitter * draws.normal(), torch.exp(jitter * draws.normal())
    cos, sin = scale * torch.cos(turn), scale * torch.sin(turn)
    shift = 2 * jitter * draws.normal(2)  # grid coordinates run from -1 to 1
    theta = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).view(-1, 2, 3)
    both = torch.cat([faces, others], dim=1).float()
    with torch.autocast(both.device.type, enabled=False):  # bfloat16 would misplace pixels by half of one
        grid = functional.affine_grid(theta.to(both), list(both.shape), align_corners=False)
        moved = functional.grid_sample(both, grid, padding_mode="border", align_corners=False)
    return moved.split([faces.shape[1], others.shape[1]], dim=1)
