"""The face as it is published: pasted back through the feathered mask, perhaps with other attributes."""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.geometry import feather_mask


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
        return output if self.mask is None else source + self.mask.to(source.device) * (output - source)


def edited_attributes(attributes: Tensor, edit_share: float) -> Tensor:
    """``att_b``: another face's attributes for ``edit_share`` of the batch, one's own for the others."""
    others = attributes[torch.randperm(len(attributes))]
    edited = torch.rand(len(attributes), 1, device=attributes.device) < edit_share
    return torch.where(edited, others, attributes)
