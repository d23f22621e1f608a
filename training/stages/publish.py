"""The face as it is published and found again: attributes, paste mask, alignment."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from runtime.geometry import crop_mask, face_mask

from ..draws import Draws


class Publish:
    """``(source, output) -> source + mask * (output - source)``, as the runtime pastes a face back.

    Args:
        image_size: side of the crop.
        masked: False leaves the network's output as it is.
        whole_crop: with the mask of a crop that is replaced, not that of a face that is changed.
    """

    def __init__(self, image_size: int, *, masked: bool, whole_crop: bool = False) -> None:
        mask = crop_mask if whole_crop else face_mask
        self.mask = torch.from_numpy(mask(image_size)) if masked else None

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


@dataclass(frozen=True)
class Realignment:
    """A small similarity of each face, as when its landmarks are found anew.

    The authority aligns by landmarks found on the published picture, which differ a little from those the
    protection was made with.

    Attributes:
        theta: ``(N, 2, 3)``, from where each face takes its pixels, in coordinates from -1 to 1; None where
            nothing moves.
    """

    theta: Tensor | None

    @classmethod
    def draw(cls, jitter: float, draws: Draws) -> Realignment:
        """A random one.

        Args:
            jitter: standard deviation of the turn in radians, of the logarithm of the scale, and of the
                shift as a share of the side; 0 changes nothing.
        """
        if jitter == 0:
            return cls(None)
        turn, scale = jitter * draws.normal(), torch.exp(jitter * draws.normal())
        cos, sin = scale * torch.cos(turn), scale * torch.sin(turn)
        shift = 2 * jitter * draws.normal(2)
        return cls(torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).view(-1, 2, 3))

    def pictures(self, *pictures: Tensor) -> tuple[Tensor, ...]:
        """Pictures ``(N, 3, S, S)`` of the same faces, moved alike."""
        if self.theta is None:
            return pictures
        together = torch.cat(pictures, dim=1).float()
        # bfloat16 would misplace pixels by half of one.
        with torch.autocast(together.device.type, enabled=False):
            grid = functional.affine_grid(self.theta.to(together), list(together.shape), align_corners=False)
            moved = functional.grid_sample(together, grid, padding_mode="border", align_corners=False)
        return moved.split([picture.shape[1] for picture in pictures], dim=1)

    def points(self, points: Tensor, side: int) -> Tensor:
        """Where points ``(N, P, 2)``, in pixels of pictures of that side, have moved to."""
        if self.theta is None:
            return points
        theta = self.theta.to(points)
        moved = (2 * points + 1) / side - 1 - theta[:, None, :, 2]
        return ((torch.linalg.solve(theta[:, :, :2], moved.mT).mT + 1) * side - 1) / 2
