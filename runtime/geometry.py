"""Face geometry as pure functions: landmarks, similarity transforms, warps and the paste mask.

Conventions, used everywhere in the project:

* a point is ``(x, y)`` in pixels, the centre of the top-left pixel being ``(0, 0)``;
* five landmarks are, in this order, left eye, right eye, nose, left and right mouth corner (left and
  right as seen in the picture), an array ``(5, 2)``;
* a transform is a ``(2, 3)`` matrix ``M`` that maps source to destination: ``dst = M @ [x, y, 1]``.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
ImageU8 = NDArray[np.uint8]

# Mean MTCNN landmarks of 400 aligned CelebA pictures in their central 178x178 square, made symmetric
# about its vertical axis, as fractions of the square's side. The square holds hair and chin.
CROP_TEMPLATE = (
    np.array([[70.24, 92.24], [108.76, 92.24], [89.5, 115.78], [72.46, 133.85], [106.54, 133.85]]) / 178.0
)

# ArcFace's five-point template, in its 112x112 frame.
ARCFACE_TEMPLATE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)

# The face in the crop, as fractions of its side: the ellipse, about the template's axis and from the hair to
# below the chin, at which the paste mask reaches 0, and the share of its radii up to which the mask is 1.
FACE_CENTRE = (90.0 / 178.0, 0.565)
FACE_RADII = (0.36, 0.40)
FACE_CORE = 0.72

# Share of the crop's side over which the mask of a whole crop falls from 1 to 0 at its border.
CROP_FEATHER = 0.12


def estimate_similarity(source: FloatArray, destination: FloatArray) -> FloatArray:
    """Least-squares similarity (rotation, uniform scale, translation; no reflection) between point sets.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", 1991.

    Args:
        source: ``(K, 2)`` points, K >= 2.
        destination: ``(K, 2)`` points.

    Returns:
        ``(2, 3)`` float64 matrix mapping source to destination.

    Raises:
        ValueError: the shapes differ or are not ``(K, 2)``, or all source points coincide.
    """
    src = np.asarray(source, dtype=np.float64)
    dst = np.asarray(destination, dtype=np.float64)
    if src.shape != dst.shape or src.ndim != 2 or src.shape[1] != 2 or len(src) < 2:
        raise ValueError(f"expected two (K, 2) point sets, K >= 2, found {src.shape} and {dst.shape}")
    src_mean, dst_mean = src.mean(0), dst.mean(0)
    src_c, dst_c = src - src_mean, dst - dst_mean
    variance = (src_c**2).sum()
    if variance < 1e-12:
        raise ValueError("all source points coincide: no similarity is defined")
    # In the plane, with z = x + iy, the best similarity is multiplication by one complex number.
    a = (src_c * dst_c).sum() / variance
    b = (src_c[:, 0] * dst_c[:, 1] - src_c[:, 1] * dst_c[:, 0]).sum() / variance
    linear = np.array([[a, -b], [b, a]])
    return np.hstack([linear, (dst_mean - linear @ src_mean)[:, None]])


def invert(matrix: FloatArray) -> FloatArray:
    """Inverse of a ``(2, 3)`` affine transform."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.hstack([linear, -(linear @ matrix[:, 2:])])


def compose(outer: FloatArray, inner: FloatArray) -> FloatArray:
    """``outer after inner`` for two ``(2, 3)`` affine transforms."""
    return np.hstack([outer[:, :2] @ inner[:, :2], outer[:, :2] @ inner[:, 2:] + outer[:, 2:]])


def transform_points(points: FloatArray, matrix: FloatArray) -> FloatArray:
    """Applies a ``(2, 3)`` transform to ``(..., 2)`` points."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def scale_of(matrix: FloatArray) -> float:
    """Uniform scale of a similarity: destination pixels per source pixel."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))


def crop_template(size_px: int) -> FloatArray:
    """Where the five landmarks lie in the network's square crop of ``size_px`` pixels."""
    # A fraction f of the side is the continuous coordinate f * size; pixel centres lie half a pixel in.
    return (CROP_TEMPLATE * 178.0 + 0.5) / 178.0 * size_px - 0.5


def crop_transform(landmarks: FloatArray, size_px: int) -> FloatArray:
    """Similarity from the picture to the network's aligned square crop."""
    return estimate_similarity(landmarks, crop_template(size_px))


def box_transform(
    landmarks: FloatArray, box: tuple[float, float, float, float], size_hw: tuple[int, int]
) -> FloatArray:
    """Affine from the picture to a recogniser's input.

    Args:
        landmarks: ``(5, 2)`` in the picture.
        box: ``(x0, y0, x1, y1)`` in ArcFace's 112x112 frame; may leave it.
        size_hw: the recogniser's input height and width; the box is stretched to it.
    """
    x0, y0, x1, y1 = box
    height, width = size_hw
    scale_x, scale_y = width / (x1 - x0), height / (y1 - y0)
    to_input = np.array(
        [
            [scale_x, 0.0, (0.5 - x0) * scale_x - 0.5],
            [0.0, scale_y, (0.5 - y0) * scale_y - 0.5],
        ]
    )
    return compose(to_input, estimate_similarity(landmarks, ARCFACE_TEMPLATE))


def warp(image: NDArray, matrix: FloatArray, size_hw: tuple[int, int]) -> NDArray:
    """Warps a picture, with an area filter first where it shrinks, so that fine detail does not alias.

    Args:
        image: ``(H, W)`` or ``(H, W, C)``, uint8 or float32.
        matrix: ``(2, 3)``, from the picture to the result.
        size_hw: height and width of the result.

    Returns:
        The same dtype and channels at ``size_hw``; what lies outside the picture repeats its edge.
    """
    scale = scale_of(matrix)
    # Only the region that the result needs: a group photo has many faces and many pixels, and OpenCV 4 (and
    # 5, with two channels) refuses to warp a picture with a side above 32766.
    image, x0, y0 = _region(image, invert(matrix), size_hw, margin_px=max(2.0, 2.0 / scale))
    matrix = compose(matrix, np.array([[1.0, 0.0, x0], [0.0, 1.0, y0]]))
    if scale < 0.5:
        height, width = image.shape[:2]
        small_w, small_h = max(1, round(width * scale)), max(1, round(height * scale))
        sx, sy = small_w / width, small_h / height
        image = cv2.resize(image, (small_w, small_h), interpolation=cv2.INTER_AREA)
        to_small = np.array([[sx, 0.0, 0.5 * sx - 0.5], [0.0, sy, 0.5 * sy - 0.5]])
        matrix = compose(matrix, invert(to_small))
    return cv2.warpAffine(
        image,
        matrix,
        (size_hw[1], size_hw[0]),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _region(
    image: NDArray, back: FloatArray, size_hw: tuple[int, int], margin_px: float
) -> tuple[NDArray, int, int]:
    """The part of a picture that a warp reads, and its first column and row.

    It ends where the picture ends, so that its repeated edge is the picture's. A region wholly outside
    comes down to the nearest column or row.

    Args:
        image: ``(H, W)`` or ``(H, W, C)``.
        back: ``(2, 3)``, from the result to the picture.
        size_hw: height and width of the result.
        margin_px: pixels of the picture kept around what the result's corners enclose.
    """
    height, width = size_hw
    corners = np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]], dtype=np.float64)
    region = transform_points(corners, back)
    last = np.array([image.shape[1] - 1, image.shape[0] - 1])
    x0, y0 = np.clip(np.floor(region.min(0) - margin_px), 0, last).astype(int)
    x1, y1 = np.clip(np.ceil(region.max(0) + margin_px), 0, last).astype(int) + 1
    return image[y0:y1, x0:x1], int(x0), int(y0)


def face_mask(size_px: int) -> NDArray[np.float32]:
    """Weight of the network's change in its square crop: 1 in the face, 0 around it.

    A raised cosine between two ellipses, so that no seam shows. Around the face, hair and background keep
    the photo's own pixels: recognisers hardly look there, people do.

    Returns:
        ``(size_px, size_px)`` float32 in [0, 1].
    """
    place = (np.arange(size_px) + 0.5) / size_px
    x, y = ((place - centre) / radius for centre, radius in zip(FACE_CENTRE, FACE_RADII, strict=True))
    outwards = np.clip((np.hypot(x[None, :], y[:, None]) - FACE_CORE) / (1.0 - FACE_CORE), 0.0, 1.0)
    return (0.5 + 0.5 * np.cos(np.pi * outwards)).astype(np.float32)


def crop_mask(size_px: int) -> NDArray[np.float32]:
    """Weight of a crop that replaces the photo's: 1 in the middle, 0 on the border.

    A raised cosine over ``CROP_FEATHER`` of the side along each axis, so that no seam shows.

    Returns:
        ``(size_px, size_px)`` float32 in [0, 1].
    """
    distance = np.minimum(np.arange(size_px), np.arange(size_px)[::-1]) / max(size_px - 1, 1)
    ramp = 0.5 - 0.5 * np.cos(np.pi * np.clip(distance / CROP_FEATHER, 0.0, 1.0))
    return np.outer(ramp, ramp).astype(np.float32)
