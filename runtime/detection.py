"""Finds faces and their five landmarks: MTCNN's cascade of three small networks, without torch.

Zhang et al., "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks", 2016. The
cascade follows facenet-pytorch's, whose weights it uses, and gives its landmarks within a pixel.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack

import cv2
import numpy as np
from numpy.typing import NDArray

from .areas import AreaSums
from .backends import Backend, create_backend
from .closing import Closing
from .manifest import Bundle
from .results import Face

# P-Net sees 12x12 windows at a stride of 2.
WINDOW_PX = 12
STRIDE_PX = 2
RNET_PX = 24
ONET_PX = 48

MIN_FACE_PX = 20
# In large photos the default smallest face grows with the shorter side: 1/60 of it.
MIN_FACE_SHARE = 60

# Enough for the largest crowd's candidates at once in a few calls, small enough for any memory.
NETWORK_BATCH = 512

logger = logging.getLogger(__name__)


class FaceDetector(Closing):
    """MTCNN over three backends (see ``export.detector`` for their inputs and outputs). A context manager.

    Args:
        pnet, rnet, onet: the three networks; closed with the detector.
        min_face_px: smallest side of a face looked for, ``None`` for ``default_min_face_px`` of each picture.
        thresholds: least probability after each network.
        factor: scale between two levels of the image pyramid, in (0, 1).

    Raises:
        ValueError: ``min_face_px`` is below 12, P-Net's window.
    """

    def __init__(
        self,
        pnet: Backend,
        rnet: Backend,
        onet: Backend,
        *,
        min_face_px: int | None = None,
        thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7),
        factor: float = 0.709,
    ) -> None:
        if min_face_px is not None and min_face_px < WINDOW_PX:
            raise ValueError(f"min_face_px must be at least {WINDOW_PX}, found {min_face_px}")
        self._pnet, self._rnet, self._onet = pnet, rnet, onet
        self.min_face_px = min_face_px
        self.thresholds = thresholds
        self.factor = factor

    @classmethod
    def from_bundle(
        cls, bundle: Bundle, *, threads: int | None = None, min_face_px: int | None = None
    ) -> FaceDetector:
        """The detector of a bundle, in ONNX Runtime on the CPU.

        Raises:
            BundleError: a network is missing or was changed.
            BackendError: ONNX Runtime cannot load one.
        """
        with ExitStack() as opened:
            nets = [
                opened.enter_context(create_backend("ort-cpu", bundle.read(name), threads=threads))
                for name in ("pnet", "rnet", "onet")
            ]
            opened.pop_all()
        return cls(*nets, min_face_px=min_face_px)

    def detect(self, picture: NDArray[np.uint8]) -> tuple[Face, ...]:
        """Every face, the largest first.

        Args:
            picture: uint8 ``(H, W, 3)`` RGB, upright.

        Raises:
            ValueError: the picture has another shape or dtype.
            BackendError: a network failed.
        """
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"expected uint8 (H, W, 3), found {picture.dtype} {picture.shape}")
        min_face_px = self.min_face_px or default_min_face_px(picture.shape[0], picture.shape[1])
        # Far above O-Net's 48 px, more pixels only cost time and memory.
        shrink = max(1, min_face_px // ONET_PX)
        sums = AreaSums(_shrunk(picture, shrink))
        boxes = self._propose(sums, min_face_px / shrink)
        boxes = self._refine(sums, boxes)
        boxes, scores, landmarks = self._locate(sums, boxes)
        order = np.argsort(-_sides(boxes).prod(1), kind="stable")
        logger.info("%d faces of at least %d px", len(order), min_face_px)
        return tuple(
            Face(tuple(box.tolist()), points, float(score))
            for box, points, score in zip(
                _grown(boxes[order], shrink), _grown(landmarks[order], shrink), scores[order], strict=True
            )
        )

    def _propose(self, sums: AreaSums, min_face_px: float) -> NDArray[np.floating]:
        """P-Net over the image pyramid: square candidates ``(K, 4)``."""
        whole = np.array([[0, 0]]), np.array([[sums.width, sums.height]])
        found = []
        scale = WINDOW_PX / min_face_px
        while min(sums.height, sums.width) * scale >= WINDOW_PX:
            level = sums.resized(*whole, (int(sums.height * scale + 1), int(sums.width * scale + 1)))
            outputs = self._pnet.run({"pixels": level})
            scores, shifts = outputs["probabilities"][0], outputs["boxes"][0]
            ys, xs = np.nonzero(scores >= self.thresholds[0])
            corner = np.stack([xs, ys], 1) * STRIDE_PX
            windows = np.floor(np.hstack([corner + 1, corner + WINDOW_PX]) / scale)
            rows = np.hstack([windows, scores[ys, xs, None], shifts[ys, xs]])
            found.append(rows[suppress(windows, rows[:, 4], 0.5)])
            scale *= self.factor
        rows = np.concatenate(found) if found else np.zeros((0, 9))
        rows = rows[suppress(rows[:, :4], rows[:, 4], 0.7)]
        boxes = rows[:, :4] + rows[:, 5:] * np.tile(_sides(rows), 2)
        return _squared(boxes)

    def _refine(self, sums: AreaSums, boxes: NDArray[np.floating]) -> NDArray[np.floating]:
        """R-Net: the candidates that remain, corrected and squared, ``(K, 4)``."""
        boxes, outputs = _run_on_boxes(self._rnet, sums, boxes, RNET_PX)
        scores = outputs["probabilities"]
        keep = np.flatnonzero(scores > self.thresholds[1])
        keep = keep[suppress(boxes[keep], scores[keep], 0.7)]
        return _squared(_corrected(boxes[keep], outputs["boxes"][keep]))

    def _locate(
        self, sums: AreaSums, boxes: NDArray[np.floating]
    ) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
        """O-Net: boxes ``(K, 4)``, scores ``(K,)`` and landmarks ``(K, 5, 2)``."""
        boxes, outputs = _run_on_boxes(self._onet, sums, boxes, ONET_PX)
        scores = outputs["probabilities"]
        keep = np.flatnonzero(scores > self.thresholds[2])
        boxes, scores = boxes[keep], scores[keep]
        # Boxes count pixels from 1 (MTCNN comes from MATLAB), landmarks from 0.
        landmarks = boxes[:, None, :2] - 1 + outputs["landmarks"][keep] * (_sides(boxes) + 1)[:, None]
        boxes = _corrected(boxes, outputs["boxes"][keep])
        keep = suppress(boxes, scores, 0.7, of_smaller=True)
        return boxes[keep], scores[keep], landmarks[keep].astype(np.float64)

    def close(self) -> None:
        """Closes the three networks."""
        for net in (self._pnet, self._rnet, self._onet):
            net.close()


def default_min_face_px(height: int, width: int) -> int:
    """Smallest face looked for in a picture: 20 px, or 1/60 of the shorter side where that is more.

    The time of detection then grows no further beyond 1200 px; a 12-megapixel photo still yields faces of
    50 px.
    """
    return max(MIN_FACE_PX, min(height, width) // MIN_FACE_SHARE)


def suppress(
    boxes: NDArray[np.floating], scores: NDArray[np.floating], threshold: float, *, of_smaller: bool = False
) -> NDArray[np.intp]:
    """Greedy non-maximum suppression.

    Args:
        boxes: ``(K, 4)`` as x0, y0, x1, y1.
        scores: ``(K,)``.
        threshold: largest overlap that two kept boxes may have.
        of_smaller: overlap is the intersection over the smaller box, not over the union, and boxes count
            their last pixel.

    Returns:
        Indices of the kept boxes, best score first.
    """
    extra = 1.0 if of_smaller else 0.0
    x0, y0, x1, y1 = np.ascontiguousarray(boxes.T, dtype=np.float64)
    areas = (x1 - x0 + extra) * (y1 - y0 + extra)
    order = np.argsort(-scores, kind="stable")
    kept = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(best)
        overlap_w = np.minimum(x1[best], x1[rest]) - np.maximum(x0[best], x0[rest]) + extra
        overlap_h = np.minimum(y1[best], y1[rest]) - np.maximum(y0[best], y0[rest]) + extra
        shared = np.maximum(overlap_w, 0) * np.maximum(overlap_h, 0)
        whole = np.minimum(areas[best], areas[rest]) if of_smaller else areas[best] + areas[rest] - shared
        order = rest[shared <= threshold * whole]
    return np.array(kept, dtype=np.intp)


def _run_on_boxes(
    net: Backend, sums: AreaSums, boxes: NDArray[np.floating], side_px: int
) -> tuple[NDArray[np.floating], dict[str, NDArray]]:
    """Runs a network on the boxes' pixels; returns the boxes that touch the picture, and its outputs."""
    corners = np.trunc(boxes).astype(np.int64)
    start = np.maximum(corners[:, :2], 1) - 1
    stop = np.minimum(corners[:, 2:], [sums.width, sums.height])
    inside = (stop > start).all(1)
    boxes, start, stop = boxes[inside], start[inside], stop[inside]
    # An empty batch still runs once, for the shapes of the outputs.
    batches = [slice(i, i + NETWORK_BATCH) for i in range(0, max(len(boxes), 1), NETWORK_BATCH)]
    parts = [net.run({"pixels": sums.resized(start[b], stop[b], (side_px, side_px))}) for b in batches]
    return boxes, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _shrunk(picture: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Averages blocks of ``factor`` by ``factor`` pixels; what does not fill a block is left out."""
    if factor == 1:
        return picture
    height, width = picture.shape[0] // factor, picture.shape[1] // factor
    whole = picture[: height * factor, : width * factor]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _grown(points: NDArray[np.floating], factor: int) -> NDArray[np.floating]:
    """Coordinates in the picture of coordinates in ``_shrunk``'s, both counted from pixel centres."""
    return (points + 0.5) * factor - 0.5


def _sides(boxes: NDArray[np.floating]) -> NDArray[np.floating]:
    return boxes[:, 2:4] - boxes[:, :2]


def _corrected(boxes: NDArray[np.floating], shifts: NDArray[np.floating]) -> NDArray[np.floating]:
    """Moves each border by a network's correction, a fraction of the box's side in pixels."""
    return boxes + shifts * np.tile(_sides(boxes) + 1, 2)


def _squared(boxes: NDArray[np.floating]) -> NDArray[np.floating]:
    """The squares of the longer side about the same centres."""
    sides = _sides(boxes)
    longest = sides.max(1, keepdims=True, initial=0)
    corner = boxes[:, :2] + (sides - longest) / 2
    return np.hstack([corner, corner + longest])
