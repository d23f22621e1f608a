"""Shrinks many rectangles of one picture at once, from its table of sums."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


class AreaSums:
    """A picture's summed-area table (Crow, "Summed-area tables for texture mapping", 1984).

    Every resized pixel is the mean of the picture's pixels that its area touches, exactly as
    ``torch.nn.functional.interpolate(mode="area")`` has it, with which MTCNN's weights are used elsewhere.

    Args:
        picture: uint8 ``(H, W, 3)``.
    """

    def __init__(self, picture: NDArray[np.uint8]) -> None:
        self.height, self.width = picture.shape[:2]
        # Sums wrap around at 2^32; differences over up to 16 million pixels still come out right.
        self._table = cv2.integral(np.ascontiguousarray(picture), sdepth=cv2.CV_32S).view(np.uint32)

    def resized(
        self, start_xy: NDArray[np.integer], stop_xy: NDArray[np.integer], size_hw: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Resizes rectangles.

        Args:
            start_xy: ``(K, 2)``, first column and row of each rectangle.
            stop_xy: ``(K, 2)``, one past the last; every rectangle lies in the picture and is not empty.
            size_hw: height and width of the results.

        Returns:
            float32 ``(K, h, w, 3)`` in [0, 255].
        """
        x0, x1 = _bins(start_xy[:, 0], stop_xy[:, 0], size_hw[1])
        y0, y1 = _bins(start_xy[:, 1], stop_xy[:, 1], size_hw[0])
        y0, y1, x0, x1 = y0[:, :, None], y1[:, :, None], x0[:, None, :], x1[:, None, :]
        table = self._table
        sums = table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]
        areas = ((y1 - y0) * (x1 - x0)).astype(np.float32)
        return sums.astype(np.float32) / areas[..., None]


def _bins(
    start: NDArray[np.integer], stop: NDArray[np.integer], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Splits each of K ranges into ``count`` bins, which may share border pixels: ``(K, count)``."""
    length = (stop - start).astype(np.int64)[:, None]
    index = np.arange(count, dtype=np.int64)
    offset = np.asarray(start, dtype=np.int64)[:, None]
    return offset + index * length // count, offset - (-(index + 1) * length // count)
