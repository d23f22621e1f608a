"""The anonymiser on LFW: recognition, privacy and reconstruction, and the cheats that must not pay."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from benchmarks.efficacy import anonymiser, reconstruction
from benchmarks.efficacy.on_lfw import View2
from benchmarks.efficacy.privacy import aligned, areas_of, means_of, privacy_of
from benchmarks.efficacy.purifier import Learning, PurifierTraining
from benchmarks.efficacy.reconstructors import Reconstructor, mean_face
from benchmarks.efficacy.releases import ATTACKER, OWNER, Releaser, SeededNoise, averaged, make_releases
from benchmarks.efficacy.shards import in_shards
from benchmarks.efficacy.verification import view_2_accuracy
from benchmarks.schema import read_result
from runtime.backends.fake import FakeBackend
from runtime.detection import FaceDetector
from runtime.errors import BundleError, NoFaceError
from runtime.manifest import Bundle
from training.batches import to_network
from training.data import FacePair
from training.data.pack import write_pack
from training.fingerprint import FIELD
from training.losses import structure_loss
from training.noise_pool import NoisePool

from .conftest import CROP_PX, TOY_CHANGE, MakeBundle
from .strangers import Colours
from .test_eraser import faces, faces_of_16, pairs
from .toy_anonymiser import FLAT, toy_anonymiser

HONEST = {"surrogates": ["open"], FIELD: {"open": {"file": "cc", "weights": "dd"}}}


def test_shards_are_joined_in_order_and_not_made_twice(tmp_path: Path) -> None:
    """Of 0 to 4 in twos the odd ones are left out: the shards have 0, 2 and 4."""
    asked: list[int] = []

    def make(items: Any) -> dict[str, np.ndarray]:
        asked.extend(items)
        even = [i for i in items if i % 2 == 0 and i != 4]
        return {"square": np.array([i * i for i in even])} if even else {}

    for _ in range(2):
        found = in_shards(range(5), make, tmp_path / "kept", size=2, title="")
        assert found["square"].tolist() == [0, 4]
    assert asked == [0, 1, 2, 3, 4]
    assert len(list(tmp_path.glob("kept/*.npz"))) == 3
    (tmp_path / "kept" / "000002-2.npz").unlink()
    in_shards(range(5), make, tmp_path / "kept", size=2, title="")
    assert asked[5:] == [2, 3]


# Noise and releases.


def test_noise_is_drawn_again_by_its_key_alone() -> None:
    noise = SeededNoise(0, OWNER, 3, 0)
    first, second = noise((2, 3)), noise((2, 3))
    assert not np.array_equal(first, second)
    noise.restart(0, OWNER, 3, 0)
    assert np.array_equal(noise((2, 3)), first)
    for key in ((0, OWNER, 3, 1), (0, OWNER, 4, 0), (1, OWNER, 3, 0), (0, ATTACKER, 3, 0)):
        assert not np.array_equal(SeededNoise(*key)((2, 3)), first)


def test_a_mean_of_releases_is_rounded() -> None:
    """(1 + 2 + 2) / 3 is 1.67; a sum in uint8 would overflow with 255 + 255."""
    levels = [np.full((1, 2, 2, 3), level, np.uint8) for level in (1, 2, 2)]
    assert averaged(levels).max() == 2
    assert averaged([np.full((1, 1, 1, 3), 255, np.uint8)] * 3).min() == 255


@pytest.fixture
def bundle(make_bundle: MakeBundle) -> Bundle:
    return toy_anonymiser(make_bundle, training=HONEST)


def test_a_photos_releases_differ_and_are_made_again(bundle: Bundle, hopper: np.ndarray) -> None:
    with Releaser(bundle, quality=95, seed=0, threads=1) as releaser:
        first, again, other, next_one = (
            releaser.release(hopper, strength=0.5, picture=picture, number=number)
            for picture, number in ((0, 0), (0, 0), (1, 0), (0, 1))
        )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, next_one)


def test_an_attackers_means_tend_to_what_is_left_of_the_face(bundle: Bundle, tmp_path: Path) -> None:
    """The toy paints ``FLAT`` plus 100 times the mean of 48 numbers and a little: a deviation of about 15
    levels, of the mean of 16 releases a quarter of that."""
    settings: dict[str, Any] = {"strength": 0.5, "quality": 95, "seed": 0, "threads": 1}
    spread = {}
    for releases in (1, 16):
        made = make_releases(bundle, faces(12), tmp_path, releases=releases, **settings)
        assert f"strength 0.5, {releases} of each" in made.made_with
        middle = made.published[:, CROP_PX // 2, CROP_PX // 2].astype(float).mean(1)
        spread[releases] = np.std(middle - FLAT)
    assert spread[16] < spread[1] / 2
    border = made.published[:, 0].astype(int) - faces(12)[:, 0]
    assert np.abs(border).mean() < 6  # there the photo shines through
    assert np.array_equal(
        make_releases(bundle, faces(12), tmp_path, releases=16, **settings).published, made.published
    )


def test_releases_of_other_faces_are_made_anew(bundle: Bundle, tmp_path: Path) -> None:
    """Kept ones would be paired with faces that they do not show."""
    settings: dict[str, Any] = {"strength": 0.5, "releases": 1, "quality": 95, "seed": 0, "threads": 1}
    one = make_releases(bundle, faces(4), tmp_path, **settings)
    other = make_releases(bundle, 255 - faces(4), tmp_path, **settings)
    assert np.abs(other.published[:, 0].astype(int) - (255 - faces(4))[:, 0]).mean() < 6
    assert one.made_with != other.made_with


def test_a_bundle_of_the_mask_is_refused(public_bundle: Bundle) -> None:
    with pytest.raises(
        BundleError, match=r"expected a bundle of the anonymiser in .*, found one of the mask"
    ):
        Releaser(public_bundle, quality=95, seed=0)


def test_the_clean_picture_is_looked_at_once_for_all_its_releases(
    lfw: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Besides it every release is: twice three strengths, the clean picture once each time."""
    looked_at: list[np.ndarray] = []
    detect = FaceDetector.detect

    def counting(self: FaceDetector, picture: np.ndarray) -> Any:
        looked_at.append(picture)
        return detect(self, picture)

    monkeypatch.setattr(FaceDetector, "detect", counting)
    (photo, *_) = View2.read(lfw, None).photos
    with Releaser(bundle, quality=95, seed=0, threads=1) as releaser:
        for _ in range(2):
            assert anonymiser.look_at(photo, 0, releaser, [Colours()], (0.25, 0.5, 1.0), {})
    assert len(looked_at) == 2 * (1 + 3)


# Recognition.


def test_pairs_of_two_kinds_and_lost_faces() -> None:
    """The first pictures are seen at cosine 1 of the axis, the second ones at 0.9 and 0.1: two folds of a
    same and a different pair, all told right. A first picture that is lost costs both of its pairs."""
    a, b, c = Path("a"), Path("b"), Path("c")
    fold = [FacePair(a, b, True), FacePair(a, c, False)]
    shown = {a: np.array([1.0, 0.0])}
    clean = {b: np.array([0.9, np.sqrt(0.19)]), c: np.array([0.1, np.sqrt(0.99)])}
    told = view_2_accuracy([fold, fold], shown, clean)
    assert (told.value, told.count) == (1.0, 4)
    lost = Path("lost")
    other = [FacePair(lost, b, True), FacePair(lost, c, False)]
    told = view_2_accuracy([fold, fold, other], {**shown, lost: np.array([np.nan, np.nan])}, clean)
    assert (told.value, told.count) == (pytest.approx(4 / 6), 6)


# Privacy.


def test_where_the_photo_shines_through_is_no_part_of_the_core() -> None:
    """With 64 px the mask is 1 from 8 px on."""
    source = faces(1)[0]
    other = source.copy()
    other[:8] = 0
    measured = privacy_of(source, other, {})
    assert measured["core/ssim"] == 1.0
    assert measured["crop/ssim"] < 0.95
    assert areas_of(CROP_PX)["core"] == (slice(8, 56), slice(8, 56))
    arrays = {"x/core/ssim": np.array([0.0, 1.0]), "xy/core/ssim": np.array([1.0])}
    means = means_of(arrays, "x")
    assert {area: list(row) for area, row in means.items()} == {"core": ["ssim"]}
    assert means["core"]["ssim"].value == 0.5


# The commands.


@pytest.fixture
def lfw(tmp_path: Path, astronaut: np.ndarray, hopper: np.ndarray) -> Path:
    """Two folds of one pair of each kind; a person's second picture is a darker one."""
    root = tmp_path / "lfw"
    for name, pixels in (("Ada", astronaut), ("Hopper", hopper)):
        (root / name).mkdir(parents=True)
        small = np.asarray(Image.fromarray(pixels).resize((200, 200)))
        for number, levels in ((1, small), (2, small // 5 * 4)):
            Image.fromarray(levels).save(root / name / f"{name}_000{number}.jpg", quality=95)
    rows = ["2\t1", "Ada\t1\t2", "Ada\t1\tHopper\t1", "Hopper\t1\t2", "Ada\t2\tHopper\t2"]
    (root / "pairs.txt").write_text("\n".join(rows) + "\n")
    return root


def test_a_part_of_the_view_keeps_its_numbers(lfw: Path) -> None:
    whole = View2.read(lfw, None)
    assert whole.numbers == View2.read(lfw, 1).numbers
    assert [photo.stem for photo in whole.photos] == ["Ada_0001", "Ada_0002", "Hopper_0001", "Hopper_0002"]
    assert list(whole.numbers.values()) == [0, 1, 2, 3]
    assert [len(fold) for fold in whole.folds] == [2, 2]


def run(command: Any, lfw: Path, bundle: Bundle, folder: Path, *more: str) -> Any:
    arguments = ["--lfw", str(lfw), "--bundle", str(bundle.folder), "--folder", str(folder / "kept")]
    return CliRunner().invoke(
        command, [*arguments, "--threads", "1", "--out", str(folder / "out.json"), *more]
    )


def test_the_command_measures_recognition_and_privacy_and_goes_on(
    lfw: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody finds the toy's flat faces again, and a face that is lost is told wrong."""
    monkeypatch.setattr(anonymiser, "VerifyRecognizer", Colours)
    monkeypatch.setattr(anonymiser, "SHARD", 3)
    strengths = ["--strength", "1", "--strength", "0.25"]
    done = run(anonymiser.command, lfw, bundle, tmp_path, *strengths)
    assert done.exit_code == 0, done.output
    result = read_result(tmp_path / "out.json")
    assert (result["pairs"], result["pictures"], result["no_face_found"]) == (4, 4, 0)
    assert result["stochastic"] is True
    assert list(result["bundle"]["sha256"]) == ["anonymise"]
    weak, strong = result["strengths"]
    assert (weak["strength"], strong["strength"]) == (0.25, 1.0)
    row = weak["recognizers"]["colours"]
    assert row["role"] == "black-box"
    assert {which: told["value"] for which, told in row["accuracy"].items()} == {
        "clean-clean": 1.0,
        "anonymised-anonymised": 0.0,
        "anonymised-clean": 0.0,
    }
    assert row["accuracy"]["anonymised-clean"]["count"] == 4
    assert (weak["lost"], row["linked"]["value"], row["cosine_to_source"]["count"]) == (4, 0.0, 0)
    assert set(weak["privacy"]) == {"crop", "core"}
    assert weak["privacy"]["core"]["ssim"]["value"] < weak["privacy"]["crop"]["ssim"]["value"] < 0.9
    assert "mean, black-box" in done.output
    written = (tmp_path / "out.json").read_text()
    shards = sorted(tmp_path.glob("kept/pictures-*/*.npz"))
    assert [shard.name for shard in shards] == ["000000-3.npz", "000003-1.npz"]
    shards[1].unlink()  # as if it had been stopped there
    assert run(anonymiser.command, lfw, bundle, tmp_path, *strengths).exit_code == 0
    assert (tmp_path / "out.json").read_text() == written


def paints(change: Any) -> Any:
    """What makes a backend whose network is a function of the faces."""
    return lambda name, model: FakeBackend(lambda inputs: {"anonymised": change(inputs["faces"])})


def test_an_anonymiser_that_returns_its_input_is_seen(lfw: Path, bundle: Bundle, tmp_path: Path) -> None:
    """Recognisers know it best of all; the only change is JPEG's."""
    cheat = Releaser(bundle, quality=95, seed=0, threads=1, backend=paints(lambda faces: faces))
    options: dict[str, Any] = {"strengths": (0.5,), "perceptual": {}, "folder": tmp_path}
    result = anonymiser.measure(View2.read(lfw, None), cheat, [Colours()], **options)
    (measured,) = result["strengths"]
    row = measured["recognizers"]["colours"]
    assert {told.value for told in row["accuracy"].values()} == {1.0}
    assert (row["linked"].value, measured["lost"]) == (1.0, 0)
    assert measured["privacy"]["core"]["ssim"].value > 0.93
    (suspicion,) = result["suspicions"]
    assert suspicion["what"] == "anonymised_ssim"
    assert "mean SSIM of anonymised with clean faces: expected at most 0.9, found 0.9" in suspicion["found"]


def test_a_recogniser_of_training_is_no_black_box(
    lfw: Path, make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"surrogates": ["mine"], FIELD: {"mine": {"file": "aa", "weights": None}}}
    monkeypatch.setattr(anonymiser, "VerifyRecognizer", Colours)
    done = run(anonymiser.command, lfw, toy_anonymiser(make_bundle, training=known), tmp_path)
    assert done.exit_code == 1
    assert "'colours' is called black-box, but the bundle was trained against this very network" in (
        done.output
    )
    assert not (tmp_path / "out.json").exists()


def test_pictures_without_a_face_are_an_error(lfw: Path, bundle: Bundle, tmp_path: Path) -> None:
    for photo in lfw.rglob("*.jpg"):
        Image.new("RGB", (100, 100), "grey").save(photo)
    releaser = Releaser(bundle, quality=95, seed=0, threads=1)
    options: dict[str, Any] = {"strengths": (0.5,), "perceptual": {}, "folder": tmp_path}
    with pytest.raises(NoFaceError, match="no face was found in any of 4 pictures"):
        anonymiser.measure(View2.read(lfw, None), releaser, [Colours()], **options)


# Reconstruction.


def test_a_purifier_may_be_compared_without_a_mask_and_by_structure(tmp_path: Path) -> None:
    """The pairs differ by 40 levels, 0.3137 of the range, which a network that takes them away undoes
    everywhere: without the face's mask nothing is left, with it the border is. Doing nothing leaves all of
    it, and one minus SSIM."""

    def loss(name: str, change: float, **learning: Any) -> float:
        told = Learning(pairs=8, steps=1, batch=8, noise=NoisePool(clean_share=1.0), jitter=0.0, **learning)
        (tmp_path / name).mkdir()
        training = PurifierTraining(pairs(8), told, tmp_path / name)
        torch.nn.init.constant_(training.network.out.bias, change)
        return training._step()["loss"]

    step = TOY_CHANGE / 127.5
    assert loss("whole", -step, masked=False) < 0.01
    assert loss("masked", -step) > 0.1
    alone, both = loss("alone", 0.0, masked=False), loss("both", 0.0, masked=False, structure=2.0)
    assert alone == pytest.approx(step, abs=1e-4)
    made = pairs(8)
    expected = 2 * structure_loss(to_network(made.published), to_network(made.clean))
    assert both - alone == pytest.approx(float(expected), abs=1e-3)


@pytest.mark.parametrize("reversible", [True, False])
def test_a_reconstruction_is_as_good_as_what_the_anonymiser_leaves(
    lfw: Path, make_bundle: MakeBundle, tmp_path: Path, reversible: bool
) -> None:
    """A negative is undone by another one, to JPEG's loss; a flat face is not. Neither injects any noise."""
    honest = {**HONEST, "stochastic": not reversible}
    bundle = toy_anonymiser(make_bundle, training=honest)
    painter = paints((lambda faces: 255 - faces) if reversible else (lambda faces: faces // 255 * 2 + FLAT))
    attackers = {
        0.5: {
            "mean face": mean_face(faces(4)),
            "negative": Reconstructor(releases=2, reconstruct=lambda crops: 255 - crops),
        }
    }
    releaser = Releaser(bundle, quality=95, seed=0, threads=1, backend=painter)
    result = reconstruction.measure(
        View2.read(lfw, None), releaser, attackers, perceptual={}, folder=tmp_path
    )
    (measured,) = result["strengths"]
    found = {name: row["privacy"]["core"]["ssim"].value for name, row in measured["reconstructions"].items()}
    assert (found["negative"] > 0.9) is reversible
    assert found["mean face"] < 0.6
    assert measured["published"]["core"]["ssim"].value < 0.6
    # The bundle that says it injects noise is suspected; the ablation says that it does not.
    assert [s["what"] for s in result["suspicions"]] == ([] if reversible else ["releases_ssim"])
    assert result["stochastic"] is not reversible


def test_the_command_trains_attackers_and_goes_on(
    lfw: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = faces_of_16()
    write_pack(tmp_path / "pack", pack)
    more = ["--faces", str(tmp_path / "pack"), "--steps", "1", "--releases", "1", "--releases", "2"]
    stopped = run(reconstruction.command, lfw, bundle, tmp_path, *more, "--minutes", "0")
    assert "1 release at 0.5: not all of 1 steps; run the same to go on" in stopped.output
    assert not (tmp_path / "out.json").exists()
    in_lfw = replace(pack, names=("Ada_0009.jpg", *pack.names[1:]))
    write_pack(tmp_path / "in-lfw", in_lfw)
    refused = run(reconstruction.command, lfw, bundle, tmp_path, "--faces", str(tmp_path / "in-lfw"))
    assert refused.exit_code == 1
    assert "found pictures of 1 who are, e.g. Ada; give --faces a pack of other people" in refused.output
    for _ in range(2):
        done = run(reconstruction.command, lfw, bundle, tmp_path, *more, "--sheet-of", str(lfw))
        assert done.exit_code == 0, done.output
    # Four pictures: the face, two releases, the mean face and what two attackers make of them.
    assert Image.open(tmp_path / "out.png").size == (6 * CROP_PX, 4 * CROP_PX)
    result = read_result(tmp_path / "out.json")
    (measured,) = result["strengths"]
    assert list(measured["reconstructions"]) == ["mean face", "1 release", "2 releases"]
    assert measured["reconstructions"]["2 releases"]["releases"] == 2
    assert measured["reconstructions"]["2 releases"]["training"]["pairs"] == len(pack)
    assert (result["faces"], result["strengths"][0]["strength"]) == ("pack", 0.5)
    assert json.loads((tmp_path / "out.json").read_text())["suspicions"] == []
    assert result["plausibility"]["releases_ssim"] < 0.99


def test_faces_are_aligned_as_they_enter_the_network(hopper: np.ndarray) -> None:
    landmarks = np.array([[200.0, 200.0], [300.0, 200.0], [250.0, 260.0], [210.0, 300.0], [290.0, 300.0]])
    assert aligned(hopper, landmarks, CROP_PX).shape == (CROP_PX, CROP_PX, 3)
