"""Puts a crop back into the photo, as pure functions. Where the mask is zero the photo stays, bit for bit.

Of a changed face only the change travels: ``output - crop`` is masked, warped back and added to the photo's
own pixels, so that detail finer than the crop survives. A replaced face travels itself, and no such detail
survives.
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
        mask: ``(h, w)`` float32 in [0, 1], or a hair above 1; where it is 0, so is ``delta``.
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
    region = _region(crop.shape[0], matrix, size_hw)
    if region is None:
        return None
    mask = geometry.face_mask(crop.shape[0])
    delta = region.warped((output.astype(np.float32) - crop.astype(np.float32)) * mask[..., None])
    mask = _warp(mask, region.matrix, region.size_hw, cv2.INTER_LINEAR)
    delta[mask <= 0] = 0  # cubic interpolation rings a little past the mask's border
    return Patch(region.x0, region.y0, delta, mask)


def make_replacement(
    photo: NDArray[np.uint8], output: NDArray[np.uint8], matrix: NDArray[np.floating]
) -> Patch | None:
    """Masks a whole new crop and warps it into the photo, of which nothing is left where the mask is 1.

    Its mask is wider than that of a change: hair and ears tell people who somebody is.

    Args:
        photo: uint8 ``(H, W, 3)``, which the patch is pasted into.
        output: uint8 ``(S, S, 3)``, what left the network.
        matrix: ``(2, 3)`` similarity from the photo to the crop.

    Returns:
        The patch, or ``None`` where the crop lies wholly outside the photo.
    """
    region = _region(output.shape[0], matrix, (photo.shape[0], photo.shape[1]))
    if region is None:
        return None
    feather = geometry.crop_mask(output.shape[0])
    # Face and mask are warped alike, or what the one adds would not fit what the other takes away.
    delta, mask = region.warped(output.astype(np.float32) * feather[..., None]), region.warped(feather)
    height, width = region.size_hw
    delta -= photo[region.y0 : region.y0 + height, region.x0 : region.x0 + width] * mask[..., None]
    outside = (mask <= 0) | (_warp(feather, region.matrix, region.size_hw, cv2.INTER_LINEAR) <= 0)
    delta[outside] = 0
    mask[outside] = 0
    return Patch(region.x0, region.y0, delta, mask)


@dataclass(frozen=True, eq=False)
class _Region:
    """The rectangle of the photo that holds a crop, and the way to it from the crop."""

    x0: int
    y0: int
    size_hw: tuple[int, int]
    matrix: NDArray[np.floating]

    def warped(self, image: NDArray[Any]) -> NDArray[Any]:
        """A crop's picture there; enlarged, it keeps more of its fine structure with cubic interpolation."""
        enlarges = geometry.scale_of(self.matrix) > 1
        return _warp(image, self.matrix, self.size_hw, cv2.INTER_CUBIC if enlarges else cv2.INTER_LINEAR)


def _region(size: int, matrix: NDArray[np.floating], size_hw: tuple[int, int]) -> _Region | None:
    """None where the crop lies wholly outside the photo."""
    back = geometry.invert(matrix)
    corners = np.array([[0, 0], [size - 1, 0], [0, size - 1], [size - 1, size - 1]], dtype=np.float64)
    bounds = geometry.transform_points(corners, back)
    x0, y0 = np.maximum(np.floor(bounds.min(0)).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(bounds.max(0)).astype(int) + 1, size_hw[::-1])
    if x0 >= x1 or y0 >= y1:
        return None
    to_region = geometry.compose(np.array([[1.0, 0.0, -x0], [0.0, 1.0, -y0]]), back)
    return _Region(int(x0), int(y0), (int(y1 - y0), int(x1 - x0)), to_region)


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
