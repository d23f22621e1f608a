"""Puts a changed crop back into the photo, as pure functions.

Only the change travels: ``output - crop`` is masked, warped back and added to the photo's own pixels. Detail
finer than the crop survives, and where the mask is zero the photo stays as it was, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from . import geometry


@dataclass(frozen=True, eq=False)
class Patch:
    """The masked change of one face, in the photo's pixels, over the rectangle that holds it.

    Attributes:
        x0, y0: the rectangle's top-left pixel in the photo.
        delta: ``(h, w, 3)`` float32, to be added, already times the mask.
        mask: ``(h, w)`` float32 in [0, 1]; where it is 0, so is ``delta``.
    """

    x0: int
    y0: int
    delta: NDArray[np.float32]
    mask: NDArray[np.float32]

    @property
    def x1(self) -> int:
        """One past the rectangle's right column."""
        return self.x0 + self.mask.shape[1]

    @property
    def y1(self) -> int:
        """One past the rectangle's bottom row."""
        return self.y0 + self.mask.shape[0]


def make_patch(
    crop: NDArray[np.uint8], output: NDArray[np.uint8], matrix: NDArray[np.floating], size_hw: tuple[int, int]
) -> Patch | None:
    """Masks the change of a crop and warps it into the photo.

    Args:
        crop: uint8 ``(S, S, 3)``, what entered the network.
        output: uint8 ``(S, S, 3)``, what left it.
        matrix: ``(2, 3)`` similarity from the photo to the crop.
        size_hw: the photo's height and width.

    Returns:
        The patch, or ``None`` where the crop lies wholly outside the photo.
    """
    size = crop.shape[0]
    back = geometry.invert(matrix)
    corners = np.array([[0, 0], [size - 1, 0], [0, size - 1], [size - 1, size - 1]], dtype=np.float64)
    region = geometry.transform_points(corners, back)
    x0, y0 = np.maximum(np.floor(region.min(0)).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(region.max(0)).astype(int) + 1, size_hw[::-1])
    if x0 >= x1 or y0 >= y1:
        return None
    mask = geometry.face_mask(size)
    delta = (output.astype(np.float32) - crop.astype(np.float32)) * mask[..., None]
    to_region = geometry.compose(np.array([[1.0, 0.0, -x0], [0.0, 1.0, -y0]]), back)
    region_hw = (int(y1 - y0), int(x1 - x0))
    mask = _warp(mask, to_region, region_hw, cv2.INTER_LINEAR)
    # Enlarged, the change keeps more of its fine structure with cubic interpolation.
    enlarges = geometry.scale_of(back) > 1
    delta = _warp(delta, to_region, region_hw, cv2.INTER_CUBIC if enlarges else cv2.INTER_LINEAR)
    delta[mask <= 0] = 0  # cubic interpolation rings a little past the mask's border
    return Patch(int(x0), int(y0), delta, mask)


def paste(photo: NDArray[np.uint8], patches: Sequence[Patch]) -> NDArray[np.uint8]:
    """Adds patches to a photo; where masks overlap and sum to more than 1, their changes are averaged.

    Args:
        photo: uint8 ``(H, W, 3)``; not changed.
        patches: of ``make_patch`` for this photo.

    Returns:
        A new uint8 ``(H, W, 3)``; equal to ``photo`` wherever every mask is 0.
    """
    result = photo.copy()
    for group in _overlapping(patches):
        x0, y0 = min(p.x0 for p in group), min(p.y0 for p in group)
        x1, y1 = max(p.x1 for p in group), max(p.y1 for p in group)
        delta = np.zeros((y1 - y0, x1 - x0, 3), np.float32)
        mask = np.zeros((y1 - y0, x1 - x0), np.float32)
        for p in group:
            place = np.s_[p.y0 - y0 : p.y1 - y0, p.x0 - x0 : p.x1 - x0]
            delta[place] += p.delta
            mask[place] += p.mask
        delta /= np.maximum(mask, 1.0)[..., None]
        delta += photo[y0:y1, x0:x1]
        result[y0:y1, x0:x1] = np.clip(np.rint(delta, out=delta), 0, 255, out=delta)
    return result


def _warp(
    image: NDArray[Any], matrix: NDArray[np.floating], size_hw: tuple[int, int], interpolation: int
) -> NDArray[Any]:
    """Warps with zeros outside, averaging first where it shrinks below a half."""
    scale = geometry.scale_of(matrix)
    if scale < 0.5:
        size = image.shape[0]
        small = max(1, round(size * scale))
        image = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
        ratio = size / small
        to_full = np.array([[ratio, 0.0, 0.5 * ratio - 0.5], [0.0, ratio, 0.5 * ratio - 0.5]])
        matrix = geometry.compose(matrix, to_full)
    return cv2.warpAffine(
        image,
        matrix,
        (size_hw[1], size_hw[0]),
        flags=interpolation,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=0,
    )


def _overlapping(patches: Sequence[Patch]) -> list[list[Patch]]:
    """Splits patches into groups whose rectangles do not touch each other's bounding rectangle."""
    groups: list[list[Patch]] = []
    for patch in patches:
        merged = [patch]
        while touching := [g for g in groups if _touch(g, merged)]:
            groups = [g for g in groups if not any(g is t for t in touching)]
            # The order in which changes are summed stays the order of the faces.
            merged = [p for g in touching for p in g] + merged
        groups.append(merged)
    return groups


def _touch(one: Sequence[Patch], other: Sequence[Patch]) -> bool:
    return (
        min(p.x0 for p in one) < max(p.x1 for p in other)
        and min(p.x0 for p in other) < max(p.x1 for p in one)
        and min(p.y0 for p in one) < max(p.y1 for p in other)
        and min(p.y0 for p in other) < max(p.y1 for p in one)
    )
