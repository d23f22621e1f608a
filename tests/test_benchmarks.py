"""The benchmarks' arithmetic, worked out by hand, and two cheats that must not pay."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks import model_card
from benchmarks.common import draw, names_below
from benchmarks.efficacy import owners, pictures, robustness
from benchmarks.efficacy.operations import OPERATIONS
from benchmarks.efficacy.protocol import Faces, Laboratory, summarise
from benchmarks.efficacy.published import jpeg
from benchmarks.efficacy.recognition import target_embedding
from benchmarks.efficacy.target_choice import choice
from benchmarks.model_card import BEGIN, END
from benchmarks.schema import write_result
from runtime.errors import BundleError, NoFaceError
from runtime.manifest import open_bundle
from runtime.shipped import default_bundle
from training.evaluation import Estimate, Thresholds, mean_of, owner_rates, quality_of, share_of
from training.evaluation.rates import VERSIONS

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
TARGET = np.array([1.0, 0.0])
OWNER = np.array([0.0, 1.0])
THRESHOLDS = Thresholds({"r": {"sha256": "aa", "threshold": {"0.1": 0.2, "0.01": 0.4}}}, {})


def sample(protected: np.ndarray | None, restored: np.ndarray | None) -> dict[str, Faces]:
    def named(embedding: np.ndarray | None) -> dict[str, np.ndarray] | None:
        return None if embedding is None else {"r": embedding}

    return {"clean": named(OWNER), "protected": named(protected), "restored": named(restored)}


def rates(*samples: dict[str, Faces]) -> dict[str, float]:
    row = summarise(samples, {"r": "black-box"}, {"r": TARGET}, THRESHOLDS)["r"]
    return {key: value.value for key, value in row.items() if isinstance(value, Estimate)}


def test_success_rates_follow_equations_17_and_18() -> None:
    """To the target: protected 0.8 and 0.3, threshold 0.4: 1/2; restored 0.1 and 0.3, threshold 0.2: 1/2."""
    found = rates(
        sample(np.array([0.8, 0.6]), np.array([0.1, 0.995])),
        sample(np.array([0.3, 0.954]), np.array([0.3, 0.954])),
    )
    assert found == {
        "asr_clean": 0.0,
        "esr_clean": 1.0,
        "asr": 0.5,
        "esr": 0.5,
        "dodging": 0.0,
        "owner_accepted_restored": 1.0,
    }


def test_the_owner_is_lost_and_accepted_at_far_0_01() -> None:
    """Cosine 0.3 to the owner, above the threshold at FAR 0.1 (0.2) and below that at 0.01 (0.4)."""
    found = rates(sample(np.array([0.954, 0.3]), np.array([0.954, 0.3])))
    assert (found["dodging"], found["owner_accepted_restored"]) == (1.0, 0.0)


def test_returning_the_targets_photo_is_an_attack_that_cannot_be_erased() -> None:
    """The attack succeeds and the owner is lost; a restorer that leaves it so scores nothing."""
    found = rates(sample(TARGET, TARGET))
    assert (found["asr"], found["dodging"]) == (1.0, 1.0)
    assert (found["esr"], found["owner_accepted_restored"]) == (0.0, 0.0)


def test_a_restorer_that_returns_the_mean_face_does_not_bring_the_owner_back() -> None:
    """ESR alone would reward it: the mean face is not the target. The owner's accept rate tells."""
    found = rates(sample(TARGET, np.array([-1.0, 0.0])))
    assert (found["esr"], found["owner_accepted_restored"]) == (1.0, 0.0)


def test_a_face_that_is_not_found_is_no_success_of_anything() -> None:
    """One face lost, one protected and restored: shares of success are halves, dodging counts one face."""
    found = rates(sample(None, None), sample(TARGET, OWNER))
    assert (found["asr"], found["esr"], found["owner_accepted_restored"]) == (0.5, 0.5, 0.5)
    assert found["dodging"] == 1.0
    row = summarise([sample(None, None), sample(TARGET, OWNER)], {"r": ""}, {"r": TARGET}, THRESHOLDS)["r"]
    assert row["cosine_to_target"]["protected"].value == 1.0
    assert row["cosine_to_target"]["protected"].count == 1


def test_thresholds_of_another_file_are_refused() -> None:
    class Other:
        name, sha256 = "r", "bb"

    with pytest.raises(ValueError, match="no thresholds of this file of 'r'"):
        THRESHOLDS.check([Other()])


def test_wilson_interval_by_hand() -> None:
    """0 of 4: from 0 to z^2 / (4 + z^2) with z = 1.96."""
    estimate = share_of(np.zeros(4, dtype=bool))
    assert (estimate.value, estimate.low, estimate.count) == (0.0, 0.0, 4)
    assert estimate.high == pytest.approx(3.8415 / 7.8415, abs=1e-4)


def test_mean_interval_by_hand() -> None:
    """0 and 2: mean 1, deviation sqrt 2, half width 1.96."""
    estimate = mean_of(np.array([0.0, 2.0]))
    assert estimate.value == 1.0
    assert estimate.high - estimate.value == pytest.approx(1.96, abs=1e-3)


def test_drawing_is_repeatable_and_refuses_too_few() -> None:
    paths = [Path(str(i)) for i in range(10)]
    assert draw(paths, 4, 0) == draw(paths, 4, 0)
    with pytest.raises(ValueError, match="expected at least 11 pictures, found 10"):
        draw(paths, 11, 0)


def test_quality_of_equal_and_shifted_pictures() -> None:
    picture = np.random.default_rng(0).integers(0, 200, (32, 32, 3), dtype=np.uint8)
    with np.errstate(divide="ignore"):
        assert quality_of(picture, picture)["ssim"] == 1.0
    brighter = quality_of(picture, picture + 51)  # by a fifth: 0.2, 0.2^2 and 20 log10(5) = 13.98 dB
    assert [brighter[measure] for measure in ("l1", "mse", "psnr")] == pytest.approx(
        [0.2, 0.04, 13.979], rel=1e-4
    )


def results(folder: Path) -> dict[str, Path]:
    """Of one picture that is protected and restored: the file that each benchmark writes."""
    rows = summarise([sample(TARGET, OWNER)], {"r": "black-box"}, {"r": TARGET}, THRESHOLDS)
    quality = {"l1": mean_of(np.ones(2)), "mse": mean_of(np.ones(2)), "psnr": mean_of(np.ones(2))}
    lost = {"clean": 0, "protected": 2, "restored": 3}
    about = {
        "environment": {
            "commit": "0" * 40,
            "processor": "p",
            "cores": 2,
            "python": "3.11.0",
            "versions": {"onnxruntime": "1.0"},
        },
        "bundle": {"name": "b", "precision": "fp16", "sha256": {"protect": "a" * 64}},
        "calibration": {"pictures": 3, "pairs": 3000, "seed": 0},
        "jpeg_quality": 95,
        "target": "t.jpg",
        "data": "faces",
        "seed": 0,
        "pictures": 1,
        "no_face_found": 0,
        "plausibility": {},
        "suspicions": [],
        "lost": lost,
    }
    whole = {
        "benchmark": "efficacy",
        "not_erased": 0,
        "fid": "not measured: no weights",
        "quality": {"protected against edited": {**quality, "lpips_alex": mean_of(np.full(2, 0.07))}},
        "recognizers": rows,
    }
    faces = {
        version: np.stack([embedding])
        for version, embedding in zip(VERSIONS, (OWNER, TARGET, OWNER), strict=True)
    }
    found = owner_rates(faces, np.stack([[OWNER]]), [TARGET], {0.01: 0.4})
    people = {
        "benchmark": "owners",
        "people": 1,
        "other_photos": 1,
        "recognizers": {"r": {"role": "black-box", **found}},
    }
    operated = {"benchmark": "robustness", "operations": {"JPEG q50": {"lost": lost, "recognizers": rows}}}
    paths = {}
    for result in (whole, people, operated):
        path = paths[result["benchmark"]] = folder / f"{result['benchmark']}.json"
        write_result(about | result, path)
    return paths


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_a_card_is_filled_from_results_and_nothing_else_changes(tmp_path: Path) -> None:
    card = tmp_path / "CARD.md"
    card.write_text(f"before\n{BEGIN}\nstale figures\n{END}\nafter")
    options = ["--card", str(card)]
    for path in results(tmp_path).values():
        options += ["--result", str(path)]
    assert CliRunner().invoke(model_card.main, options).exit_code == 0
    filled = card.read_text()
    assert "| whole picture | L1 | MSE | PSNR, dB | LPIPS (AlexNet) |" in filled
    assert "| protected against edited | 1.0000 | 1.0000 | 1.0 | 0.070 |" in filled
    certain = "100 (21-100)"
    assert f"| r | black-box | 0 (0-79) | {' | '.join([certain] * 5)} |" in filled
    assert f"| r | black-box | {certain} / 0 (0-79) / {certain} |" in filled
    assert "| JPEG q50 | 2 / 3 | 100 / 100 / 100 |" in filled
    assert filled.startswith("before\n")
    assert filled.endswith(f"{END}\nafter")
    assert "stale figures" not in filled


def test_a_card_without_markers_and_a_result_of_something_else_are_refused() -> None:
    with pytest.raises(ValueError, match="expected the markers"):
        model_card.fill("no markers", "")
    with pytest.raises(ValueError, match=r"x\.json: expected a result of efficacy, .*, found one of latency"):
        model_card.measured_block([({"benchmark": "latency"}, "x.json")])


def test_a_card_takes_only_what_conforms_to_the_schema(tmp_path: Path) -> None:
    card = tmp_path / "CARD.md"
    card.write_text(f"{BEGIN}\n{END}")
    path = results(tmp_path)["efficacy"]
    bare = read(path)
    bare["recognizers"]["r"]["asr"] = 0.9
    path.write_text(json.dumps(bare))
    run = CliRunner().invoke(model_card.main, ["--card", str(card), "--result", str(path)])
    assert run.exit_code == 1
    assert "at recognizers/r/asr: 0.9 is not" in run.output
    assert card.read_text() == f"{BEGIN}\n{END}"


@pytest.mark.parametrize("field", ["bundle", "target", "jpeg_quality"])
def test_a_card_does_not_mix_measurements_of_different_things(tmp_path: Path, field: str) -> None:
    first, second = (read(results(tmp_path)[name]) for name in ("efficacy", "owners"))
    with pytest.raises(ValueError, match=f"b: expected the {field} of a, .*, found other"):
        model_card.measured_block([(first, "a"), (second | {field: "other"}, "b")])


def test_a_result_of_an_older_format_is_said_to_lack_a_field(tmp_path: Path) -> None:
    old = read(results(tmp_path)["efficacy"])
    del old["recognizers"]["r"]["esr_clean"]
    with pytest.raises(ValueError, match="a lacks 'esr_clean'; measure again"):
        model_card.measured_block([(old, "a")])


def test_the_target_fewest_strangers_pass_for_comes_first() -> None:
    """Threshold 0.2: of cosines 0.1 and 0.3 to one, half pass; nobody does for the other."""
    strangers = [{"r": np.array([0.1, -1.0])}, {"r": np.array([0.3, -1.0])}]
    rows = choice({"near": {"r": TARGET}, "far": {"r": OWNER}}, strangers, THRESHOLDS)
    assert list(rows) == ["far", "near"]
    assert (rows["far"]["mean"], rows["near"]["mean"]) == (1.0, 0.5)
    assert rows["near"]["r"].count == 2


def picture(seed: int = 0) -> np.ndarray:
    smooth = np.random.default_rng(seed).normal(0, 1, (8, 6, 3)).cumsum(0).cumsum(1)
    levels = np.interp(smooth, (smooth.min(), smooth.max()), (0, 255)).astype(np.uint8)
    return np.asarray(Image.fromarray(levels).resize((96, 128)))


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_repeatable_and_changes_what_it_should(name: str) -> None:
    before = picture()
    first, again = (OPERATIONS[name](before, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, again)
    assert first.dtype == np.uint8
    assert np.array_equal(before, picture())  # the input is left alone
    assert np.array_equal(first, before) == (name == "none")
    assert first.shape == ((112, 84, 3) if name.startswith("crop") else before.shape)


def test_gaussian_noise_has_the_papers_variance() -> None:
    """Variance 0.003 on [0, 1] is a deviation of 13.97 levels; 36,864 samples tell it to 1 %."""
    grey = np.full((128, 96, 3), 128, np.uint8)
    noisy = OPERATIONS["Gaussian 0.003"](grey, np.random.default_rng(0))
    assert np.std(noisy.astype(float)) == pytest.approx(255 * 0.003**0.5, rel=0.02)


def test_lower_jpeg_quality_loses_more() -> None:
    before = picture().astype(float)
    errors = [
        np.abs(OPERATIONS[f"JPEG q{quality}"](picture(), np.random.default_rng(0)) - before).mean()
        for quality in (30, 50, 70, 90)
    ]
    assert errors == sorted(errors, reverse=True)


class NoFaces:
    """A detector of faces that are never there."""

    def detect(self, pixels: np.ndarray) -> tuple[()]:
        return ()


class Inverter:
    """A publisher whose protection is the picture's negative."""

    open: bool | None = None
    detector = NoFaces()

    def __init__(self, erases: bool) -> None:
        self.erases = erases
        self.manifest = SimpleNamespace(training={})

    def __enter__(self) -> Inverter:
        self.open = True
        return self

    def __exit__(self, *_: object) -> None:
        self.open = False

    def protect(self, pixels: np.ndarray) -> bytes:
        return jpeg(255 - pixels, 95)

    def edit(self, pixels: np.ndarray) -> np.ndarray:
        return pixels

    def erase(self, published: np.ndarray) -> bytes | None:
        return jpeg(255 - published, 95) if self.erases else None


def laboratory(erases: bool) -> Laboratory:
    """Its one recogniser sees a picture's mean colour."""
    bare = Laboratory.__new__(Laboratory)
    bare.publisher, bare.recognizers = Inverter(erases), []
    bare.embed = lambda pixels: None if pixels is None else {"r": pixels.mean((0, 1)) / 255}
    return bare


@pytest.mark.parametrize("found", [True, False])
def test_a_laboratory_closes_its_publisher_also_where_the_target_shows_no_face(
    tmp_path: Path, found: bool
) -> None:
    path = tmp_path / "target.png"
    Image.fromarray(np.full((32, 32, 3), 40, np.uint8)).save(path)
    here = laboratory(True)
    here._target_picture = path
    if not found:
        here.embed = lambda pixels: None
        with pytest.raises(NoFaceError, match=r"target\.png"), here:
            pass
    else:
        with here:
            assert here.publisher.open
            assert here.target["r"] == pytest.approx(40 / 255)
    assert here.publisher.open is False


def shipped_laboratory(cards: Path | None) -> Laboratory:
    thresholds = RESULTS / "thresholds.json"
    rest = {"bundle": None, "key": None, "quality": 95, "threads": 1}
    return Laboratory(cards=cards, target=None, thresholds=thresholds, **rest)


def test_without_cards_verifys_recogniser_looks_alone_and_the_bundle_knows_the_target() -> None:
    with shipped_laboratory(None) as here:
        ((name, target),) = here.target.items()
        assert here.roles == {name: "black-box"}
        assert name.startswith("sface")
        assert target @ target == pytest.approx(1.0)
        assert here.about("efficacy")["target"] == open_bundle(default_bundle("public")).manifest.target


def test_other_recognisers_need_the_targets_picture(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the recognisers of a cards file need the target's picture: give"):
        shipped_laboratory(tmp_path / "cards.json")


def test_a_bundle_that_does_not_know_the_target_says_so() -> None:
    manifest = dataclasses.replace(open_bundle(default_bundle("public")).manifest, training={})
    with pytest.raises(BundleError, match=r"carries no SFace embedding of the target .* give the target's"):
        target_embedding(manifest)


def test_names_of_pictures_are_told_from_their_folder_on() -> None:
    paths = [Path("/data/a/1.jpg"), Path("/elsewhere/2.jpg")]
    assert names_below(Path("/data"), paths) == ["a/1.jpg", "2.jpg"]


def test_what_cannot_be_erased_is_lost_in_every_benchmark(tmp_path: Path) -> None:
    """The published file must not stand in for the restored one."""
    path = tmp_path / "face.png"
    Image.fromarray(np.full((32, 32, 3), 40, np.uint8)).save(path)
    for erases in (True, False):
        here = laboratory(erases)
        whole = pictures.run_picture(path, here, {}, None, None)
        versions, others = owners.run_person([path, path], here)
        operated = robustness.run_picture(path, here, index=0, seed=0)
        assert (whole.embeddings["restored"] is None) is not erases
        assert whole.erased is erases
        assert whole.features is None
        seen = pictures.run_picture(path, here, {}, lambda faces: faces.mean((1, 2)), None).features
        assert seen.keys() == {"clean", "edited", "protected", "restored"}
        assert seen["restored"] == pytest.approx(40 if erases else 215, abs=2)
        assert (versions["restored"] is None) is not erases
        assert all((found["restored"] is None) is not erases for found in operated.values())
        assert others[0]["r"] == pytest.approx(40 / 255)
        assert whole.embeddings["protected"]["r"] == pytest.approx(215 / 255, abs=0.01)
        assert whole.quality["restored against clean"]["l1"] == pytest.approx(
            0 if erases else 175 / 255, abs=0.01
        )


def test_the_shipped_card_says_what_was_measured_on_the_shipped_bundle() -> None:
    bundle = default_bundle("public").parent
    names = ("efficacy.json", "owners.json", "robustness.json")
    measured = [(read(RESULTS / name), name) for name in names]
    assert model_card.measured_block(measured) in (bundle / "MODEL_CARD.md").read_text(encoding="utf-8")
    for side, network in (("public", "protect"), ("authority", "restore")):
        shipped = open_bundle(bundle / side).manifest.models[network].sha256
        assert all(result["bundle"]["sha256"][network] == shipped for result, _ in measured)
