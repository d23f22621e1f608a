"""The pipeline between pixels and networks, and the paste, with networks that are simple arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import geometry
from runtime.authority import Secret, read_key_file, unseal_model
from runtime.backends import Backend
from runtime.backends.fake import FakeBackend
from runtime.detection import FaceDetector
from runtime.errors import BackendError, BundleError, ErasableMaskError, NoFaceError
from runtime.manifest import Bundle
from runtime.paste import Patch, make_patch, paste
from runtime.pipeline import Eraser, Protector
from runtime.results import Face

from .conftest import ATTRIBUTES, CROP_PX, TOY_CHANGE, MakeBundle, protect_bytes, restore_bytes


class FixedDetector(FaceDetector):
    """Finds the faces it was told, whatever the picture."""

    def __init__(self, *faces: Face) -> None:
        self.faces = faces

    def detect(self, picture: np.ndarray) -> tuple[Face, ...]:
        return self.faces

    def close(self) -> None:
        """Nothing to close."""


def face_at(x: float, y: float, side_px: float, degrees: float = 0.0) -> Face:
    """A face whose aligned crop is the square of ``side_px`` about ``(x, y)``, turned."""
    angle, scale = np.deg2rad(degrees), side_px / CROP_PX
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([x, y])
    landmarks = (geometry.crop_template(CROP_PX) - (CROP_PX - 1) / 2) @ linear.T + centre
    half = side_px / 2
    return Face((x - half, y - half, x + half, y + half), landmarks, 1.0)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


class Networks:
    """A backend factory that makes fakes and keeps them by the network's name."""

    def __init__(self, change: int = 0) -> None:
        self.made: dict[str, FakeBackend] = {}
        self.change = change

    def __call__(self, name: str, model: bytes) -> Backend:
        functions = {
            "attributes": lambda x: {"probabilities": np.full((len(x["faces"]), 3), 0.9, np.float32)},
            "protect": lambda x: {
                "protected": np.clip(x["faces"].astype(int) + self.change, 0, 255).astype(np.uint8)
            },
            "restore": lambda x: {"restored": x["faces"]},
        }
        self.made[name] = FakeBackend(functions[name])
        return self.made[name]


def test_an_identity_network_leaves_every_pixel(public_bundle: Bundle) -> None:
    """Residual paste: no change of the crop, no change of the photo, not even of detail the crop lost."""
    photo = noise(500, 700)
    faces = face_at(200, 200, 300, 10), face_at(450, 250, 90, -30), face_at(690, 10, 60)
    with Protector(public_bundle, backend=Networks(), detector=FixedDetector(*faces)) as protector:
        result = protector.protect(photo)
    np.testing.assert_array_equal(result.pixels, photo)
    assert result.pixels is not photo
    assert [report.mean_change for report in result.faces] == [0, 0, 0]


@pytest.mark.parametrize("side_px", [20, 64, 150, 700])
def test_only_pixels_inside_the_masks_change(public_bundle: Bundle, side_px: int) -> None:
    photo = noise(400, 600) // 2
    face = face_at(260.3, 180.7, side_px, 20)
    with Protector(public_bundle, backend=Networks(40), detector=FixedDetector(face)) as protector:
        result = protector.protect(photo)
    to_crop = geometry.crop_transform(face.landmarks, CROP_PX)
    grid = np.stack(np.meshgrid(np.arange(600), np.arange(400)), -1)
    in_crop = geometry.transform_points(grid, to_crop)
    # Averaging while shrinking may move the border by a pixel of the photo.
    slack = geometry.scale_of(to_crop) + 1
    place = (in_crop + 0.5) / CROP_PX - geometry.FACE_CENTRE
    distance = np.linalg.norm(place / geometry.FACE_RADII, axis=-1)  # 1 where the mask ends
    slack /= CROP_PX * min(geometry.FACE_RADII)
    outside = distance > 1 + slack
    np.testing.assert_array_equal(result.pixels[outside], photo[outside])
    core = distance < geometry.FACE_CORE - slack
    assert core.any()
    change = result.pixels[core].astype(int) - photo[core]
    assert np.abs(change - 40).max() <= 1


def test_detail_finer_than_the_crop_survives(public_bundle: Bundle) -> None:
    """A 1000 px face through a 64 px crop keeps its single-pixel noise: the change is smooth."""
    photo = noise(1200, 1200) // 2
    with Protector(
        public_bundle, backend=Networks(40), detector=FixedDetector(face_at(600, 600, 1000))
    ) as protector:
        change = protector.protect(photo).pixels.astype(int) - photo
    assert np.abs(np.diff(change, axis=0)).max() <= 2


def test_all_faces_go_in_one_batch_and_large_crowds_in_chunks(make_bundle: MakeBundle) -> None:
    networks = Networks()
    faces = [face_at(40 + 50 * k, 60, 40) for k in range(5)]
    with Protector(make_bundle(max_batch=2), backend=networks, detector=FixedDetector(*faces)) as protector:
        result = protector.protect(noise(120, 400))
    assert [len(call["faces"]) for call in networks.made["protect"].calls] == [2, 2, 1]
    assert len(result.faces) == 5


def test_the_network_gets_what_the_manifest_promises(public_bundle: Bundle) -> None:
    networks = Networks()
    faces = face_at(100, 100, 80), face_at(200, 100, 60)
    with Protector(public_bundle, backend=networks, detector=FixedDetector(*faces)) as protector:
        result = protector.protect(
            noise(200, 300), attributes={"Eyeglasses": 0}, strength=0.25, injection=0.75
        )
    (call,) = networks.made["protect"].calls
    assert {name: (x.dtype.name, x.shape) for name, x in call.items()} == {
        "faces": ("uint8", (2, CROP_PX, CROP_PX, 3)),
        "attributes": ("float32", (2, 3)),
        "strength": ("float32", (2, 1)),
        "injection": ("float32", (2, 1)),
    }
    assert call["attributes"].tolist() == [[1, 0, 1]] * 2
    assert call["strength"].tolist() == [[0.25]] * 2
    assert call["injection"].tolist() == [[0.75]] * 2
    assert (result.strength, result.injection) == (0.25, 0.75)
    assert result.faces[0].attributes == {"Bangs": 1, "Eyeglasses": 0, "Smiling": 1}


def test_all_attributes_given_need_no_prediction(public_bundle: Bundle) -> None:
    networks = Networks()
    with Protector(public_bundle, backend=networks, detector=FixedDetector(face_at(60, 60, 40))) as protector:
        protector.protect(noise(120, 120), attributes=dict.fromkeys(ATTRIBUTES, 0))
    assert networks.made["attributes"].calls == []


def test_crops_are_the_aligned_faces(public_bundle: Bundle, astronaut: np.ndarray) -> None:
    networks = Networks()
    with Protector(public_bundle, backend=networks) as protector:
        (report,) = protector.protect(astronaut).faces
    matrix = geometry.crop_transform(report.face.landmarks, CROP_PX)
    (call,) = networks.made["protect"].calls
    np.testing.assert_array_equal(call["faces"][0], geometry.warp(astronaut, matrix, (CROP_PX, CROP_PX)))


def test_real_photo_real_detector_onnx_networks(
    public_bundle: Bundle, authority_bundle: Bundle, key_file, group: np.ndarray
) -> None:
    """Two faces brightened by 40 levels, then darkened again: back to the start where nothing saturates."""
    group = group // 2
    model = unseal_model(authority_bundle, Secret.from_key(read_key_file(key_file)))
    with (
        Protector(public_bundle, threads=1) as protector,
        Eraser(authority_bundle, model, threads=1) as eraser,
    ):
        protected = protector.protect(group)
        restored = eraser.erase(protected.pixels)
    assert len(protected.faces) == len(restored.faces) == 2
    assert protected.faces[0].attributes == {"Bangs": 0, "Eyeglasses": 1, "Smiling": 0}
    x, y = protected.faces[0].face.landmarks[2].astype(int)
    nose = np.s_[y - 5 : y + 5, x - 5 : x + 5]
    assert abs(protected.pixels[nose].mean() - group[nose].mean() - TOY_CHANGE) < 2
    assert abs(restored.pixels[nose].mean() - group[nose].mean()) < 2


@pytest.mark.parametrize(
    ("defaults", "knobs"),
    [({}, {"strength": 0.0}), ({}, {"injection": 1.0}), ({"strength": 0.0}, {}), ({"injection": 1.0}, {})],
)
def test_protecting_nothing_is_an_error(make_bundle: MakeBundle, defaults: dict, knobs: dict) -> None:
    """Without strength, or with nothing but the clean branch, the picture would stay unprotected."""
    networks = Networks()
    with (
        Protector(
            make_bundle(**defaults), backend=networks, detector=FixedDetector(face_at(60, 60, 40))
        ) as protector,
        pytest.raises(ErasableMaskError, match="nothing would be protected with strength"),
    ):
        protector.protect(noise(120, 120), **knobs)
    assert networks.made["protect"].calls == []


def test_no_face_is_an_error(public_bundle: Bundle) -> None:
    grey = np.full((200, 200, 3), 128, np.uint8)
    with (
        Protector(public_bundle, threads=1) as protector,
        pytest.raises(NoFaceError, match="no face was found"),
    ):
        protector.protect(grey)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["strength", "injection"])
def test_knobs_are_checked(public_bundle: Bundle, name: str, value: float) -> None:
    with (
        Protector(public_bundle, backend=Networks(), detector=FixedDetector()) as protector,
        pytest.raises(ErasableMaskError, match=f"{name} must be a number from 0 to 1"),
    ):
        protector.protect(noise(9, 9), **{name: value})


def test_attributes_are_checked(public_bundle: Bundle) -> None:
    with Protector(public_bundle, backend=Networks(), detector=FixedDetector()) as protector:
        with pytest.raises(
            ErasableMaskError, match=r"unknown attribute Beard; .* Bangs, Eyeglasses, Smiling"
        ):
            protector.protect(noise(9, 9), attributes={"Beard": 1})
        with pytest.raises(ErasableMaskError, match="Bangs must be 0 or 1, found 2"):
            protector.protect(noise(9, 9), attributes={"Bangs": 2})


def test_another_alignment_is_refused(make_bundle: MakeBundle) -> None:
    template = geometry.CROP_TEMPLATE + 1e-5
    bundle = make_bundle(crop_template=tuple(map(tuple, template.tolist())))
    with pytest.raises(BundleError, match="crop_template"):
        Protector(bundle)


def test_a_changed_network_is_refused(public_bundle: Bundle) -> None:
    (public_bundle.folder / "protect.onnx").write_bytes(protect_bytes(change=1))
    with pytest.raises(BundleError, match="was changed or damaged"):
        Protector(public_bundle)


def test_a_public_bundle_cannot_erase(public_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="only an authority's bundle can erase"):
        Eraser(public_bundle, restore_bytes())


def test_a_network_of_another_size_is_an_error(public_bundle: Bundle) -> None:
    def factory(name: str, model: bytes) -> Backend:
        if name == "attributes":
            return Networks()(name, model)
        return FakeBackend(lambda x: {"protected": x["faces"][:, ::2]})

    with (
        Protector(public_bundle, backend=factory, detector=FixedDetector(face_at(50, 50, 40))) as protector,
        pytest.raises(BackendError, match=r"expected faces uint8 \(1, 64, 64, 3\) .* \(1, 32, 64, 3\)"),
    ):
        protector.protect(noise(100, 100))


def brighten(photo: np.ndarray, faces: list[Face], levels: int) -> np.ndarray:
    crop = np.full((CROP_PX, CROP_PX, 3), 100, np.uint8)
    patches = [
        make_patch(
            crop, crop + np.uint8(levels), geometry.crop_transform(f.landmarks, CROP_PX), photo.shape[:2]
        )
        for f in faces
    ]
    return paste(photo, [patch for patch in patches if patch is not None])


def test_overlapping_faces_do_not_add_up() -> None:
    """Two masks of 1 at the same place give the mean of their changes, not the sum."""
    photo = np.full((300, 300, 3), 50, np.uint8)
    result = brighten(photo, [face_at(150, 150, 200), face_at(170, 150, 200)], 60)
    assert result.max() <= 113  # cubic interpolation may overshoot a ramp by a few percent
    assert result[150, 160].tolist() == [110, 110, 110]


def test_neighbours_that_share_a_seam_leave_no_dark_line() -> None:
    """Where two feathered borders overlap and sum to less than 1, their changes are summed."""
    photo = np.zeros((200, 400, 3), np.uint8)
    one = brighten(photo, [face_at(120, 100, 100)], 60).astype(int)
    two = brighten(photo, [face_at(212, 100, 100)], 60).astype(int)
    both = brighten(photo, [face_at(120, 100, 100), face_at(212, 100, 100)], 60)
    weights = (one + two).max()
    assert weights <= 61
    assert np.abs(both - (one + two)).max() <= 1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(-50, 350), st.integers(-50, 350), st.integers(10, 250)), max_size=4))
def test_paste_does_not_depend_on_how_faces_overlap(places: list[tuple[int, int, int]]) -> None:
    """Any order gives the same picture up to rounding, and never more than the change itself."""
    photo = np.full((300, 300, 3), 50, np.uint8)
    faces = [face_at(*place) for place in places]
    one, two = brighten(photo, faces, 60), brighten(photo, faces[::-1], 60)
    assert np.abs(one.astype(int) - two).max(initial=0) <= 1
    assert one.min() >= 45
    assert one.max() <= 115


def test_a_face_outside_the_photo_has_no_patch() -> None:
    crop = np.zeros((CROP_PX, CROP_PX, 3), np.uint8)
    far = geometry.crop_transform(face_at(-500, 50, 40).landmarks, CROP_PX)
    assert make_patch(crop, crop, far, (100, 100)) is None


def test_values_are_clipped_not_wrapped() -> None:
    photo = np.array([[[250, 5, 128]]], np.uint8)
    patch = Patch(0, 0, np.array([[[20, -20, 0.4]]], np.float32), np.ones((1, 1), np.float32))
    assert paste(photo, [patch]).tolist() == [[[255, 0, 128]]]
