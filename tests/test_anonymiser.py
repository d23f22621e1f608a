"""``runtime.Anonymiser`` and ``erasablemask anonymise``: replaced faces, fresh noise, nothing unprotected."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from runtime import geometry, noise
from runtime.anonymiser import Anonymiser
from runtime.backends import create_backend
from runtime.backends.fake import FakeBackend
from runtime.backends.triton import TritonServer
from runtime.cli import main
from runtime.errors import BackendError, BundleError, ErasableMaskError, NoFaceError
from runtime.manifest import Bundle
from runtime.noise import fresh_normal
from runtime.paste import make_replacement, paste
from runtime.pictures import read_picture
from runtime.pipeline import Protector

from .conftest import CROP_PX, PORTRAIT, MakeBundle
from .test_pipeline import FixedDetector, face_at
from .test_pipeline import noise as photo_of
from .toy_anonymiser import CELLS, FLAT, toy_anonymiser
from .triton_fakes import FakeTriton


@pytest.fixture
def bundle(make_bundle: MakeBundle) -> Bundle:
    return toy_anonymiser(make_bundle)


class Painter:
    """A backend factory whose network paints every face in one level."""

    def __init__(self, level: int = 200) -> None:
        self.level = level
        self.fake: FakeBackend | None = None

    def __call__(self, name: str, model: bytes) -> FakeBackend:
        assert name == "anonymise"
        self.fake = FakeBackend(lambda x: {"anonymised": np.full_like(x["faces"], self.level)})
        return self.fake


# Pasting.


@pytest.mark.parametrize("side_px", [20, 64, 150, 700])
def test_nothing_of_the_photo_is_left_inside_and_all_of_it_outside(bundle: Bundle, side_px: int) -> None:
    """Noise of single pixels, far finer than the crop, would survive the paste of a mere change."""
    photo = photo_of(400, 600)
    face = face_at(260.3, 180.7, side_px, 20)
    with Anonymiser(bundle, backend=Painter(200), detector=FixedDetector(face)) as anonymiser:
        result = anonymiser.anonymise(photo)
    to_crop = geometry.crop_transform(face.landmarks, CROP_PX)
    grid = np.stack(np.meshgrid(np.arange(600), np.arange(400)), -1)
    in_crop = geometry.transform_points(grid, to_crop)
    slack = geometry.scale_of(to_crop)
    outside = ((in_crop < -slack) | (in_crop > CROP_PX - 1 + slack)).any(-1)
    np.testing.assert_array_equal(result.pixels[outside], photo[outside])
    margin = CROP_PX * (geometry.CROP_FEATHER + 0.05)
    core = ((in_crop > margin) & (in_crop < CROP_PX - 1 - margin)).all(-1)
    assert core.any()
    assert np.abs(result.pixels[core].astype(int) - 200).max() <= 1


@pytest.mark.parametrize("side_px", [30, 64, 300])
def test_a_face_replaced_by_itself_shows_no_seam(side_px: int) -> None:
    """A flat photo and the same flat face: the feathered border, too, must stay flat."""
    photo = np.full((400, 400, 3), 90, np.uint8)
    matrix = geometry.crop_transform(face_at(200, 200, side_px, 15).landmarks, CROP_PX)
    patch = make_replacement(photo, np.full((CROP_PX, CROP_PX, 3), 90, np.uint8), matrix)
    assert patch is not None
    np.testing.assert_array_equal(paste(photo, [patch]), photo)


def test_where_two_faces_overlap_nothing_of_the_photo_is_left(bundle: Bundle) -> None:
    faces = face_at(150, 150, 120), face_at(190, 150, 120)
    with Anonymiser(bundle, backend=Painter(10), detector=FixedDetector(*faces)) as anonymiser:
        result = anonymiser.anonymise(np.full((300, 400, 3), 250, np.uint8))
    assert result.pixels[140:160, 120:220].max() <= 11


def test_a_crop_outside_the_photo_is_no_patch() -> None:
    matrix = geometry.crop_transform(face_at(-500, -500, 60).landmarks, CROP_PX)
    face = np.zeros((CROP_PX, CROP_PX, 3), np.uint8)
    assert make_replacement(photo_of(100, 100), face, matrix) is None


# The pipeline.


def test_the_network_gets_fresh_noise_for_every_face_and_call(bundle: Bundle) -> None:
    painter = Painter()
    faces = face_at(100, 100, 80), face_at(200, 100, 60)
    with Anonymiser(bundle, backend=painter, detector=FixedDetector(*faces)) as anonymiser:
        result = anonymiser.anonymise(photo_of(200, 300))
        anonymiser.anonymise(photo_of(200, 300), strength=1)
    assert painter.fake is not None
    first, second = painter.fake.calls
    assert {name: (x.dtype.name, x.shape) for name, x in first.items()} == {
        "faces": ("uint8", (2, CROP_PX, CROP_PX, 3)),
        "grain": ("float32", (2, 1, CROP_PX, CROP_PX)),
        "shade": ("float32", (2, 3, CELLS, CELLS)),
        "strength": ("float32", (2, 1)),
    }
    assert (first["strength"] == 0.5).all()
    assert (second["strength"] == 1).all()
    np.testing.assert_array_equal(first["faces"], second["faces"])
    for name in ("grain", "shade"):
        assert len(np.unique(np.concatenate([first[name], second[name]]), axis=0)) == 4, name
    assert (result.strength, len(result.faces), dict(result.faces[0].attributes)) == (0.5, 2, {})
    assert result.faces[0].mean_change > 5


def test_crowds_go_in_chunks(make_bundle: MakeBundle) -> None:
    painter = Painter()
    faces = [face_at(40 + 50 * k, 60, 40) for k in range(5)]
    bundle = toy_anonymiser(make_bundle, max_batch=2)
    with Anonymiser(bundle, backend=painter, detector=FixedDetector(*faces)) as anonymiser:
        anonymiser.anonymise(photo_of(120, 400))
    assert painter.fake is not None
    assert [len(call["grain"]) for call in painter.fake.calls] == [2, 2, 1]


def test_noise_is_normal_and_seeded_by_the_operating_system_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """20000 numbers: the mean strays by 0.007, the deviation by 0.005."""
    numbers = fresh_normal((2, 100, 100))
    assert (numbers.dtype, numbers.shape) == (np.float32, (2, 100, 100))
    assert abs(numbers.mean()) < 0.05
    assert abs(numbers.std() - 1) < 0.05
    asked = []
    monkeypatch.setattr(noise.secrets, "randbits", lambda bits: asked.append(bits) or 7)
    np.testing.assert_array_equal(fresh_normal((5,)), fresh_normal((5,)))
    assert asked == [256, 256]


def test_without_a_face_nothing_is_given_back(bundle: Bundle) -> None:
    with (
        Anonymiser(bundle, backend=Painter(), detector=FixedDetector()) as anonymiser,
        pytest.raises(NoFaceError),
    ):
        anonymiser.anonymise(photo_of(50, 50))


def test_a_strength_that_injects_nothing_is_refused(bundle: Bundle) -> None:
    with Anonymiser(bundle, backend=Painter(), detector=FixedDetector()) as anonymiser:
        for strength, message in ((0, "no noise would be injected"), (1.5, "from 0 to 1, found 1.5")):
            with pytest.raises(ErasableMaskError, match=message):
                anonymiser.anonymise(photo_of(50, 50), strength=strength)


def test_bundles_of_the_other_system_are_refused(bundle: Bundle, make_bundle: MakeBundle) -> None:
    with pytest.raises(BundleError, match=r"has no network 'protect' \(it has: anonymise"):
        Protector(bundle)
    bundle.folder.rename(bundle.folder.with_name("other"))
    with pytest.raises(BundleError, match=r"a bundle of the anonymiser in .*, found one of the mask"):
        Anonymiser(make_bundle())


def test_a_manifest_without_the_noises_shapes_is_refused(make_bundle: MakeBundle) -> None:
    with pytest.raises(BundleError, match=r"grain and shade of .* found no grain and no shade"):
        Anonymiser(make_bundle(system="anonymiser"))


@pytest.fixture
def fake_server(bundle: Bundle) -> Iterator[FakeTriton]:
    """Serves the toy network."""
    entry = bundle.manifest.models["anonymise"]
    with (
        create_backend("ort-cpu", bundle.read("anonymise"), threads=1) as network,
        FakeTriton({"anonymise": (entry, network.run)}) as server,
    ):
        yield server


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_server_gets_the_faces_their_noise_and_the_strength(
    bundle: Bundle, fake_server: FakeTriton, scheme: str
) -> None:
    """Drawn from the same source, it gives the very picture of a local backend; the photo stays here."""
    results = []
    for backend in ("ort-cpu", TritonServer(url=fake_server.url(scheme))):
        normal = np.random.default_rng(0)
        with Anonymiser(
            bundle,
            backend=backend,
            detector=FixedDetector(face_at(100, 100, 80), face_at(200, 100, 60)),
            normal=lambda shape, source=normal: source.standard_normal(shape, dtype=np.float32),
        ) as anonymiser:
            results.append(anonymiser.anonymise(photo_of(200, 300), strength=0.75).pixels)
    np.testing.assert_array_equal(*results)
    ((name, inputs, _),) = fake_server.requests
    assert (name, sorted(inputs)) == ("anonymise", ["faces", "grain", "shade", "strength"])
    assert inputs["faces"].shape == (2, CROP_PX, CROP_PX, 3)
    assert (inputs["strength"] == 0.75).all()


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_the_command_draws_fresh_noise_for_a_server(
    bundle: Bundle, fake_server: FakeTriton, tmp_path: Path, scheme: str
) -> None:
    for name in ("one.png", "two.png"):
        server = ["--backend", "triton", "--url", fake_server.url(scheme)]
        result = anonymise(bundle, PORTRAIT, "-o", tmp_path / name, *server)
        assert result.exit_code == 0, result.output
    first, second = (inputs for _, inputs, _ in fake_server.requests)
    np.testing.assert_array_equal(first["faces"], second["faces"])
    for name in ("grain", "shade"):
        assert not np.array_equal(first[name], second[name]), name
        assert abs(first[name].std() - 1) < 0.5, name


@pytest.mark.parametrize("backend", ["auto", "openvino-bf16", "ort-cuda"])
def test_a_backend_that_may_compute_in_less_than_float32_is_refused(bundle: Bundle, backend: str) -> None:
    with pytest.raises(BackendError, match=f"ort-cpu or openvino-fp32, found {backend}; less than float32"):
        Anonymiser(bundle, backend=backend)


# The command.


def anonymise(bundle: Bundle, *arguments: object) -> Result:
    options = ["anonymise", "--bundle", bundle.folder, "--threads", 1, *arguments]
    return CliRunner().invoke(main, [str(option) for option in options])


def test_a_photo_is_anonymised_and_never_twice_alike(bundle: Bundle, tmp_path: Path) -> None:
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    result = anonymise(bundle, PORTRAIT, "-o", one)
    assert (result.exit_code, result.stdout) == (0, f"{one}: 1 face anonymised\n"), result.output
    assert anonymise(bundle, PORTRAIT, "-o", two).exit_code == 0
    before, first, second = (read_picture(path).pixels for path in (PORTRAIT, one, two))
    assert (first != second).any()
    np.testing.assert_array_equal(before[300:], first[300:])
    changed = (first != before).any(-1)
    assert changed.mean() > 0.05
    centre = first[changed].astype(int)
    assert abs(np.median(centre) - FLAT) < 100


def test_the_report_is_json_and_the_policy_is_protects(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "out.jpg"
    result = anonymise(bundle, PORTRAIT, "-o", out, "--json", "--strength", "0.75")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["bundle"], report["backend"], report["strength"]) == ("toy", "ort-cpu", 0.75)
    [picture] = report["pictures"]
    assert (picture["output"], picture["error"], len(picture["faces"])) == (str(out), None, 1)
    again = anonymise(bundle, PORTRAIT, "-o", out)
    assert (again.exit_code, "exists" in again.stderr) == (1, True)


def test_no_face_no_file(bundle: Bundle, tmp_path: Path) -> None:
    Image.new("RGB", (120, 90), "grey").save(tmp_path / "wall.png")
    result = anonymise(bundle, tmp_path / "wall.png", "-o", tmp_path / "out.png")
    assert result.exit_code == 1
    assert "no face was found" in result.stderr
    assert not (tmp_path / "out.png").exists()


def test_exif_says_nothing_of_the_person(bundle: Bundle, tmp_path: Path) -> None:
    with Image.open(PORTRAIT) as picture:
        exif = picture.getexif()
        exif[0x013B] = "Ada Photographer"
        picture.save(tmp_path / "in.jpg", exif=exif, quality=95)
    assert anonymise(bundle, tmp_path / "in.jpg", "-o", tmp_path / "out.jpg").exit_code == 0
    assert b"Ada Photographer" in (tmp_path / "in.jpg").read_bytes()
    assert b"Ada Photographer" not in (tmp_path / "out.jpg").read_bytes()


def test_bad_usage(bundle: Bundle, tmp_path: Path) -> None:
    zero = anonymise(bundle, PORTRAIT, "-o", tmp_path / "x.png", "--strength", "0")
    assert (zero.exit_code, "0.0 is not in the range" in zero.stderr) == (2, True)
    none = CliRunner().invoke(main, ["anonymise", str(PORTRAIT), "-o", str(tmp_path / "x.png")])
    assert (none.exit_code, "Missing option '--bundle'" in none.stderr) == (2, True)
    assert list(tmp_path.glob("*.png")) == []


def test_an_ablations_bundle_warns(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = toy_anonymiser(make_bundle, training={"stochastic": False})
    result = anonymise(bundle, PORTRAIT, "-o", tmp_path / "x.png")
    assert result.exit_code == 0, result.output
    assert "this bundle is the ablation without noise" in result.stderr


def test_inspect_shows_the_system_and_nothing_of_the_mask(bundle: Bundle) -> None:
    result = CliRunner().invoke(main, ["inspect", str(bundle.folder)])
    assert result.exit_code == 0, result.output
    assert "system      anonymiser" in result.stdout
    assert "anonymise.onnx" in result.stdout
    assert "injection" not in result.stdout
