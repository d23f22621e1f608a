"""The detector agrees with facenet-pytorch's MTCNN, from which it was exported."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from runtime.areas import AreaSums
from runtime.backends import create_backend
from runtime.backends.fake import FakeBackend
from runtime.detection import FaceDetector, default_min_face_px, suppress
from runtime.manifest import Bundle

torch = pytest.importorskip("torch", reason="torch is not installed")
facenet = pytest.importorskip("facenet_pytorch", reason="facenet-pytorch is not installed")


@pytest.mark.parametrize("name", ["astronaut", "hopper", "group"])
def test_agrees_with_facenet_pytorch(
    name: str, detector: FaceDetector, request: pytest.FixtureRequest
) -> None:
    pixels = request.getfixturevalue(name)
    boxes, scores, landmarks = facenet.MTCNN(keep_all=True).detect(pixels, landmarks=True)
    faces = detector.detect(pixels)
    assert len(faces) == len(boxes)
    for face, box, score, points in zip(faces, boxes, scores, landmarks, strict=True):
        np.testing.assert_allclose(face.landmarks, points.astype(float), atol=0.05)
        np.testing.assert_allclose(face.box, box.astype(float), atol=0.05)
        assert face.score == pytest.approx(score, abs=1e-4)
        assert face.landmarks.dtype == np.float64


def test_networks_agree_with_torch_on_any_size_and_batch(detector_files: dict[str, bytes]) -> None:
    """Same numbers as the PyTorch networks, max difference 1e-5, for batches and odd sizes."""
    generator = np.random.default_rng(0)
    mtcnn = facenet.MTCNN()
    for name, height, width in (("pnet", 61, 47), ("pnet", 12, 13), ("rnet", 24, 24), ("onet", 48, 48)):
        pixels = generator.uniform(0, 255, (3, height, width, 3)).astype(np.float32)
        with torch.no_grad():
            scaled = (torch.from_numpy(pixels).permute(0, 3, 1, 2) - 127.5) / 128
            boxes, *_, scores = getattr(mtcnn, name)(scaled)
        outputs = create_backend("ort-cpu", detector_files[name], threads=1).run({"pixels": pixels})
        np.testing.assert_allclose(outputs["probabilities"], scores[:, 1].numpy(), atol=1e-5)
        np.testing.assert_allclose(outputs["boxes"], np.moveaxis(boxes.numpy(), 1, -1), atol=1e-5)


def test_export_is_small_and_names_no_file_of_this_machine(detector_files: dict[str, bytes]) -> None:
    assert sum(map(len, detector_files.values())) < 2_100_000
    assert not any(b"site-packages" in data or b".py" in data for data in detector_files.values())


def test_faces_come_largest_first(detector: FaceDetector, group: np.ndarray) -> None:
    sizes = [face.size_px for face in detector.detect(group)]
    assert len(sizes) == 2
    assert sizes == sorted(sizes, reverse=True)


def test_a_large_picture_gives_the_same_face_at_its_scale(
    detector: FaceDetector, astronaut: np.ndarray
) -> None:
    """At 6 times the size: within 3% of the face, MTCNN's own scatter."""
    (small,) = detector.detect(astronaut)
    (large,) = detector.detect(cv2.resize(astronaut, None, fx=6, fy=6, interpolation=cv2.INTER_CUBIC))
    expected = (small.landmarks + 0.5) * 6 - 0.5
    assert np.abs(large.landmarks - expected).max() < 0.03 * large.size_px


def test_a_picture_shrunk_for_a_large_smallest_face_keeps_its_coordinates(
    detector_files: dict[str, bytes], astronaut: np.ndarray
) -> None:
    """With the smallest face at 200 px the picture is read at a quarter of its size."""
    nets = [create_backend("ort-cpu", detector_files[name], threads=1) for name in ("pnet", "rnet", "onet")]
    picture = cv2.resize(astronaut, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    with FaceDetector(*nets, min_face_px=200) as shrinking, FaceDetector(*nets, min_face_px=80) as full:
        (one,), (two,) = shrinking.detect(picture), full.detect(picture)
    assert np.abs(one.landmarks - two.landmarks).max() < 0.03 * two.size_px


@pytest.mark.parametrize("shape", [(512, 512), (8, 300), (1, 1)])
def test_no_face_is_an_empty_tuple(detector: FaceDetector, shape: tuple[int, int]) -> None:
    assert detector.detect(np.full((*shape, 3), 127, np.uint8)) == ()


@pytest.mark.parametrize("bad", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3), np.float32)])
def test_other_arrays_are_refused(detector: FaceDetector, bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(H, W, 3\), found"):
        detector.detect(bad)


def test_too_small_faces_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="at least 12, found 11"):
        FaceDetector(*[FakeBackend(dict)] * 3, min_face_px=11)


def test_from_bundle_reads_the_bundles_networks(public_bundle: Bundle, astronaut: np.ndarray) -> None:
    with FaceDetector.from_bundle(public_bundle, threads=1) as opened:
        assert len(opened.detect(astronaut)) == 1


def test_smallest_face_grows_only_in_large_pictures() -> None:
    assert default_min_face_px(512, 4000) == 20
    assert default_min_face_px(4000, 3000) == 50


def test_area_sums_are_torchs_area_interpolation() -> None:
    """Shrinking, growing and ragged ratios; within float32's rounding."""
    picture = np.random.default_rng(1).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    start, stop = np.array([[0, 0], [5, 7], [50, 30]]), np.array([[53, 37], [31, 36], [53, 37]])
    found = AreaSums(picture).resized(start, stop, (11, 24))
    for k, ((x0, y0), (x1, y1)) in enumerate(zip(start, stop, strict=True)):
        part = torch.from_numpy(picture[y0:y1, x0:x1]).permute(2, 0, 1)[None].float()
        expected = torch.nn.functional.interpolate(part, size=(11, 24), mode="area")[0].permute(1, 2, 0)
        np.testing.assert_allclose(found[k], expected.numpy(), atol=1e-3)


def test_area_sums_survive_the_wrap_around_of_their_table() -> None:
    """4200 x 4200 white pixels sum to 4.5e9, more than 2^32; the mean of a corner is still 255."""
    sums = AreaSums(np.full((4200, 4200, 3), 255, np.uint8))
    found = sums.resized(np.array([[4100, 4100]]), np.array([[4200, 4200]]), (3, 3))
    np.testing.assert_array_equal(found, 255)


def test_suppress_keeps_the_best_of_overlapping_boxes() -> None:
    """IoU of the first two is 80/120 = 0.67, of the others 0."""
    boxes = np.array([[0, 0, 10, 10], [0, 2, 10, 12], [50, 50, 60, 60]], float)
    scores = np.array([0.7, 0.9, 0.8])
    assert suppress(boxes, scores, 0.6).tolist() == [1, 2]
    assert suppress(boxes, scores, 0.7).tolist() == [1, 2, 0]
    assert suppress(np.zeros((0, 4)), np.zeros(0), 0.5).tolist() == []


def test_suppress_by_the_smaller_box_removes_a_box_inside_another() -> None:
    """A 4x4 box inside a 20x20 one: IoU 0.05, yet wholly covered."""
    boxes = np.array([[0, 0, 19, 19], [5, 5, 8, 8]], float)
    scores = np.array([0.9, 0.8])
    assert suppress(boxes, scores, 0.7).tolist() == [0, 1]
    assert suppress(boxes, scores, 0.7, of_smaller=True).tolist() == [0]
