"""Properties of ``runtime.geometry``."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import geometry

coordinates = st.floats(-2000, 2000)
sizes = st.integers(16, 512)


@st.composite
def similarities(draw: st.DrawFn) -> np.ndarray:
    """A ``(2, 3)`` similarity: any angle, scale 0.05 to 20, any translation."""
    angle, scale = draw(st.floats(-np.pi, np.pi)), draw(st.floats(0.05, 20))
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cos, -sin, draw(coordinates)], [sin, cos, draw(coordinates)]])


@given(similarities())
def test_estimate_finds_the_similarity_that_made_the_points(matrix: np.ndarray) -> None:
    moved = geometry.transform_points(geometry.ARCFACE_TEMPLATE, matrix)
    np.testing.assert_allclose(
        geometry.estimate_similarity(geometry.ARCFACE_TEMPLATE, moved), matrix, rtol=1e-6, atol=1e-6
    )


@given(similarities(), st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=5, max_size=5))
def test_estimate_is_the_least_squares_solution(matrix: np.ndarray, noise: list[tuple[float, float]]) -> None:
    """No small change of the four parameters lowers the squared error."""
    source = geometry.ARCFACE_TEMPLATE
    target = geometry.transform_points(source, matrix) + np.array(noise)
    found = geometry.estimate_similarity(source, target)

    def error(m: np.ndarray) -> float:
        return float(((geometry.transform_points(source, m) - target) ** 2).sum())

    for a, b, x, y in np.vstack([np.eye(4), -np.eye(4)]) * [1e-3, 1e-3, 1e-2, 1e-2]:
        assert error(found) <= error(found + np.array([[a, -b, x], [b, a, y]])) + 1e-9


@given(similarities(), similarities(), st.tuples(coordinates, coordinates))
def test_compose_applies_the_inner_first(
    outer: np.ndarray, inner: np.ndarray, point: tuple[float, float]
) -> None:
    one = geometry.transform_points(np.array([point]), geometry.compose(outer, inner))
    two = geometry.transform_points(geometry.transform_points(np.array([point]), inner), outer)
    np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-6)


@given(similarities())
def test_invert_undoes(matrix: np.ndarray) -> None:
    np.testing.assert_allclose(
        geometry.compose(matrix, geometry.invert(matrix)), np.eye(2, 3), rtol=0, atol=1e-6
    )
    assert geometry.scale_of(matrix) * geometry.scale_of(geometry.invert(matrix)) == pytest.approx(1)


@given(sizes, sizes)
def test_crop_template_scales_about_the_crops_border(size: int, other: int) -> None:
    """In continuous coordinates, pixel centre + 0.5, the template is a fraction of the side."""
    np.testing.assert_allclose(
        (geometry.crop_template(size) + 0.5) / size, (geometry.crop_template(other) + 0.5) / other
    )


def test_crop_template_at_celebas_size_is_the_measured_one() -> None:
    np.testing.assert_allclose(geometry.crop_template(178), geometry.CROP_TEMPLATE * 178)


@given(similarities(), sizes)
def test_crop_transform_brings_a_moved_face_to_the_template(matrix: np.ndarray, size: int) -> None:
    landmarks = geometry.transform_points(geometry.crop_template(178), matrix)
    found = geometry.transform_points(landmarks, geometry.crop_transform(landmarks, size))
    np.testing.assert_allclose(found, geometry.crop_template(size), atol=1e-5)


def test_box_transform_of_the_whole_arcface_frame_is_the_arcface_alignment() -> None:
    found = geometry.box_transform(geometry.ARCFACE_TEMPLATE, (0, 0, 112, 112), (112, 112))
    np.testing.assert_allclose(found, np.eye(2, 3), atol=1e-12)


def test_box_transform_stretches_the_box_to_the_input() -> None:
    """The box's borders, at pixel centre - 0.5, land on the input's borders."""
    matrix = geometry.box_transform(geometry.ARCFACE_TEMPLATE, (-10, 4, 102, 60), (28, 224))
    corners = geometry.transform_points(np.array([[-10.5, 3.5], [101.5, 59.5]]), matrix)
    np.testing.assert_allclose(corners, [[-0.5, -0.5], [223.5, 27.5]], atol=1e-9)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (np.zeros((5, 2)), np.zeros((4, 2)), r"\(5, 2\) and \(4, 2\)"),
        (np.zeros((1, 2)), np.zeros((1, 2)), "K >= 2"),
        (np.ones((5, 2)), np.zeros((5, 2)), "coincide"),
    ],
)
def test_estimate_refuses_undefined_problems(source: np.ndarray, target: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        geometry.estimate_similarity(source, target)


def test_warp_with_the_identity_changes_nothing(astronaut: np.ndarray) -> None:
    np.testing.assert_array_equal(geometry.warp(astronaut, np.eye(2, 3), astronaut.shape[:2]), astronaut)


@given(st.floats(0.05, 4), st.floats(20, 80), st.floats(20, 80))
def test_warp_moves_a_ramp_to_where_the_matrix_says(scale: float, x: float, y: float) -> None:
    """A linear ramp has at every warped pixel the value of the point it came from, shrunk or grown."""
    ramp = np.add.outer(np.arange(400) * 0.25, np.arange(400) * 0.5).astype(np.float32)
    matrix = np.array([[scale, 0, 2 - x * scale], [0, scale, 2 - y * scale]])
    found = geometry.warp(ramp, matrix, (8, 8))
    points = np.stack(np.meshgrid(np.arange(8), np.arange(8)), -1)
    source = geometry.transform_points(points, geometry.invert(matrix))
    inside = ((source > 12) & (source < 387)).all(-1)
    expected = source[..., 0] * 0.5 + source[..., 1] * 0.25
    # Half a pixel of the shrunk picture, plus OpenCV's grid of 1/32 pixel.
    np.testing.assert_allclose(found[inside], expected[inside], atol=0.05 + 0.1 / scale)


def test_warp_does_not_alias_when_it_shrinks() -> None:
    """A checkerboard of single pixels shrunk 8 times is grey, not a random pick of black and white."""
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    small = geometry.warp(board, np.array([[0.125, 0, 0.3], [0, 0.125, 0.2]]), (32, 32))
    assert np.abs(small.astype(int) - 127)[2:-2, 2:-2].max() <= 3


def warp_whole(image: np.ndarray, matrix: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """OpenCV over the whole picture."""
    flags, border = cv2.INTER_LINEAR, cv2.BORDER_REPLICATE
    return cv2.warpAffine(image, matrix, size_hw[::-1], flags=flags, borderMode=border)


@pytest.mark.parametrize("degrees", [0, 20, 75])
@pytest.mark.parametrize("side_px", [30, 100, 190])
@pytest.mark.parametrize("centre", [(226, 116), (3, 5), (500, 508), (-40, 200), (256, 700)])
def test_warp_of_the_needed_part_is_the_warp_of_the_whole(
    astronaut: np.ndarray, degrees: float, side_px: float, centre: tuple[float, float]
) -> None:
    """Within the picture, over each of its edges, where they repeat, and wholly outside."""
    angle, scale = np.deg2rad(degrees), 96 / side_px
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.hstack([linear, (47.5 - linear @ centre)[:, None]])
    found = geometry.warp(astronaut, matrix, (96, 96))
    expected = warp_whole(astronaut, matrix, (96, 96))
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("scale", [0.2, 0.8, 2.0])
def test_warp_takes_pictures_of_any_length(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A panorama of 40000 pixels gives at its right end what that end alone gives.

    OpenCV 4 refuses sides above 32766, OpenCV 5 only for some pictures: see what it is given.
    """
    tile = np.random.default_rng(0).integers(0, 256, (30, 100, 3), dtype=np.uint8)
    end = cv2.resize(tile, (1000, 300), interpolation=cv2.INTER_CUBIC)
    panorama = np.concatenate([np.zeros((300, 39000, 3), np.uint8), end], axis=1)
    there = np.array([[scale, 0.0, 40.0 - scale * 39700], [0.0, scale, 40.0 - scale * 150]])
    to_end = geometry.compose(there, np.array([[1.0, 0.0, 39000.0], [0.0, 1.0, 0.0]]))
    expected = geometry.warp(end, to_end, (80, 80))
    longest_px, original = [], cv2.warpAffine

    def watched(image: np.ndarray, *rest: object, **options: object) -> np.ndarray:
        longest_px.append(max(image.shape))
        return original(image, *rest, **options)

    monkeypatch.setattr(cv2, "warpAffine", watched)
    found = geometry.warp(panorama, there, (80, 80))
    assert longest_px[0] < 1000
    assert expected.std() > 10
    assert np.abs(found.astype(int) - expected).max() <= 1


@given(sizes)
def test_face_mask_is_one_at_the_landmarks_and_zero_on_the_border(size: int) -> None:
    mask = geometry.face_mask(size)
    assert mask.dtype == np.float32
    assert mask.min() == 0
    assert mask.max() == 1
    for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]):
        assert not edge.any()
    for x, y in np.rint(geometry.crop_template(size)).astype(int):
        assert mask[y, x] == 1


def test_face_mask_falls_without_a_seam_from_the_middle_outwards() -> None:
    """A raised cosine over 0.28 of a radius r of S pixels falls by at most pi / (2 * 0.28 r S) a pixel."""
    size = 128
    mask = geometry.face_mask(size)
    middle_x, middle_y = (int(centre * size) for centre in geometry.FACE_CENTRE)
    row, column = mask[middle_y, middle_x:], mask[middle_y:, middle_x]
    assert (np.diff(row) <= 0).all()
    assert (np.diff(column) <= 0).all()
    steepest = np.pi / (2 * (1 - geometry.FACE_CORE) * min(geometry.FACE_RADII) * size)
    assert max(np.abs(np.diff(mask, axis=axis)).max() for axis in (0, 1)) <= steepest
    # As far to the right of the face's axis as to its left.
    assert abs(float(mask[:, :middle_x].sum() - mask[:, middle_x + 1 :].sum())) < 0.01 * mask.sum()


@given(sizes)
def test_crop_mask_is_symmetric_one_inside_and_zero_on_the_border(size: int) -> None:
    mask = geometry.crop_mask(size)
    assert mask.dtype == np.float32
    assert mask.min() == 0
    assert mask.max() == 1
    np.testing.assert_array_equal(mask, mask.T)
    np.testing.assert_array_equal(mask, mask[::-1])
    assert not mask[0].any()
    inner = int(np.ceil(geometry.CROP_FEATHER * size)) + 1
    assert (mask[inner:-inner, inner:-inner] == 1).all()
