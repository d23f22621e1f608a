"""Rates worked out by hand, and a tiny run measured on saved crops."""

from __future__ import annotations

import json
from hashlib import sha256

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.tiny_run import NAMES, save_run
from tests.tiny_training import tiny_pack
from training.batches import to_network
from training.checkpoint import load_networks
from training.evaluation import Estimate, Thresholds, owner_rates, read_thresholds
from training.evaluation.__main__ import main as command
from training.evaluation.crops import evaluate, jpeg, mean_embedding, people, protect_and_restore, to_uint8
from training.evaluation.frechet import NOT_MEASURED, frechet_distance
from training.evaluation.statistics import write_json
from training.evaluation.table import markdown
from training.stages.publish import Publish
from training.target import unseen_pictures

A, B, C = np.eye(3)
LOST = np.full(3, np.nan)


def owner(faces, others, thresholds=None):
    rates = owner_rates(
        {version: np.array(rows) for version, rows in faces.items()},
        np.array(others),
        [C],
        thresholds or {0.01: 0.5},
    )
    return {v: {measure: estimate.value for measure, estimate in row.items()} for v, row in rates.items()}


def test_owners_are_found_clean_and_lost_to_the_target():
    """Two people at A and B, the target at C. Clean: each nearest to their own. Protected: the first is the
    target's double, the second is as before: one of two found; restored: both again."""
    found = owner(
        {"clean": [A, B], "protected": [C, B], "restored": [A, B]}, [[A, A], [B, B]], {0.01: 0.5, 0.001: 1.5}
    )
    assert found["clean"] == {"rank_1": 1.0, "verified_0.01": 1.0, "verified_0.001": 0.0}
    assert found["protected"] == {"rank_1": 0.5, "verified_0.01": 0.5, "verified_0.001": 0.0}
    assert found["restored"]["rank_1"] == 1.0


def test_verification_averages_over_a_persons_other_photos():
    """One of the first person's two other photos matches, none of the second's: (1/2 + 0) / 2."""
    found = owner({"clean": [A, B]}, [[A, B], [A, A]])
    assert found["clean"]["verified_0.01"] == 0.25


def test_a_lost_face_is_left_out_when_protected_and_a_failure_when_restored():
    found = owner({"protected": [LOST, B], "restored": [LOST, B]}, [[A], [B]])
    assert found["protected"]["rank_1"] == 1.0
    assert found["restored"]["rank_1"] == 0.5


def test_a_person_whose_gallery_photo_shows_no_face_is_left_out_and_finds_nobody():
    found = owner({"clean": [A, B]}, [[LOST, A], [B, LOST]])
    assert found["clean"] == {"rank_1": 1.0, "verified_0.01": 1.0}
    rates = owner_rates({"clean": np.array([A, B])}, np.array([[LOST, A], [B, LOST]]), [C], {})
    assert rates["clean"]["rank_1"].count == 1


def test_people_with_one_picture_are_left_out():
    pack = tiny_pack()
    pack.identities[:] = [5, 7, 5, 9, 7, 5, 9, 4]
    first, others = people(pack)
    assert first.tolist() == [0, 1, 3]
    assert others.tolist() == [[2], [4], [6]]
    pack.identities[:] = np.arange(8)
    with pytest.raises(ValueError, match="expected people with at least two pictures, found none"):
        people(pack)


class MeanColour:
    """A recogniser whose embedding is the mean colour, one dimension more so that black has a direction."""

    name, sha256 = "colour", "aa"

    def embed(self, pixels, landmarks):
        mean = np.append(pixels.mean((0, 1)) / 255, 0.1)
        return mean / np.linalg.norm(mean)


THRESHOLDS = Thresholds(
    {"colour": {"sha256": "aa", "threshold": {"0.1": 0.9, "0.01": 0.95, "0.001": 0.99}}}, {}
)


def test_a_run_is_measured_on_saved_crops(tmp_path):
    run = save_run(tmp_path / "run")
    pack = tiny_pack(n_attributes=len(NAMES))
    pack.identities[:] = [0, 0, 1, 1, 2, 2, 3, 3]
    embedder = MeanColour()
    target = embedder.embed(np.full((4, 4, 3), 255, np.uint8), None)
    result = evaluate(
        run, pack, [embedder], {"colour": "black-box"}, THRESHOLDS, {"colour": target}, quality=90
    )
    assert (result["people"], result["other_photos"]) == (4, 1)
    row = result["recognizers"]["colour"]
    versions = protect_and_restore(run, pack.crops[::2], pack.attributes[::2], quality=90)
    expected = np.mean([embedder.embed(crop, None) @ target for crop in versions.protected])
    assert row["cosine_to_target"]["protected"].value == pytest.approx(expected)
    coarse = protect_and_restore(run, pack.crops[::2], pack.attributes[::2], quality=30)
    assert np.array_equal(coarse.edited, versions.edited)  # not a file
    assert not np.array_equal(coarse.protected, versions.protected)
    assert not np.array_equal(coarse.restored, versions.restored)
    assert result["quality"]["protected against edited"]["l1"].value > 0
    text = markdown({"run": "run", "data": "faces", "target": ["t.png"], **result})
    assert "| colour | black-box |" in text
    asr = f"{100 * row['asr'].value:.0f}"
    assert f"| mean | black-box | {100 * row['asr_clean'].value:.0f} | {asr} | " in text
    assert "Target: t.png." in text
    write_json(result, tmp_path / "out.json")
    saved = json.loads((tmp_path / "out.json").read_text())
    assert saved["recognizers"]["colour"]["owner_found"]["clean"].keys() == {
        "rank_1",
        "verified_0.01",
        "verified_0.001",
    }


def test_the_authority_restores_the_saved_file_and_saves_it(tmp_path):
    run = save_run(tmp_path / "run")
    pack = tiny_pack(n_attributes=len(NAMES))
    versions = protect_and_restore(run, pack.crops, pack.attributes, quality=60)
    config, _, restorer, _, _ = load_networks(run)
    received = to_network(versions.protected)
    restored = Publish(config.network.image_size, masked=True)(received, restorer(received))
    assert np.array_equal(versions.restored, jpeg(to_uint8(restored), 60))


def test_a_strength_of_ones_own_takes_the_place_of_the_runs(tmp_path):
    run = save_run(tmp_path / "run")
    pack = tiny_pack(n_attributes=len(NAMES))
    settings = load_networks(run)[0].attack_settings

    def protected(strength: float | None) -> np.ndarray:
        return protect_and_restore(run, pack.crops, pack.attributes, quality=95, strength=strength).protected

    assert np.array_equal(protected(None), protected(settings.strength))
    assert not np.array_equal(protected(None), protected(0.0))


def test_a_level_is_the_nearest():
    levels = torch.tensor([[100.6, 3.4, -7.0, 300.0]]).view(1, 1, 1, 4).expand(1, 3, 1, 4)
    assert to_uint8(levels / 127.5 - 1)[0, 0, :, 0].tolist() == [101, 3, 0, 255]


def test_each_rate_has_its_own_threshold(tmp_path):
    """Half of the protected faces lie above the threshold at FAR 0.01, all above that at 0.1."""
    run, embedder = save_run(tmp_path / "run"), MeanColour()
    pack = tiny_pack(n_attributes=len(NAMES))
    pack.identities[:] = [0, 0, 1, 1, 2, 2, 3, 3]
    target = embedder.embed(np.full((4, 4, 3), 255, np.uint8), None)
    versions = protect_and_restore(run, pack.crops[::2], pack.attributes[::2], quality=95)
    protected, restored = (
        np.sort([embedder.embed(crop, None) @ target for crop in crops])
        for crops in (versions.protected, versions.restored)
    )
    attack, erasure = protected[1:3].mean(), min(protected[0], restored[0]) - 1e-4
    thresholds = Thresholds(
        {"colour": {"sha256": "aa", "threshold": {"0.1": erasure, "0.01": attack, "0.001": 2.0}}}, {}
    )
    row = evaluate(run, pack, [embedder], {"colour": ""}, thresholds, {"colour": target})["recognizers"]
    assert row["colour"]["asr"].value == 0.5
    assert row["colour"]["esr"].value == 0.0
    assert row["colour"]["owner_found"]["clean"]["verified_0.001"].value == 0.0


def test_fid_is_that_of_the_saved_versions_or_is_said_to_be_missing(tmp_path):
    def features(crops):
        return crops.mean((1, 2))

    run, embedder = save_run(tmp_path / "run"), MeanColour()
    pack = tiny_pack(n_attributes=len(NAMES))
    pack.identities[:] = [0, 0, 1, 1, 2, 2, 3, 3]
    versions = protect_and_restore(run, pack.crops[::2], pack.attributes[::2], quality=95)
    given = (
        run,
        pack,
        [embedder],
        {"colour": ""},
        THRESHOLDS,
        {"colour": embedder.embed(pack.crops[0], None)},
    )
    result = evaluate(*given, inception=features)
    expected = {
        "protected against edited": (versions.edited, versions.protected),
        "protected against clean": (versions.clean, versions.protected),
        "restored against clean": (versions.clean, versions.restored),
    }
    assert result["fid"] == {
        title: pytest.approx(frechet_distance(features(a), features(b))) for title, (a, b) in expected.items()
    }
    told = {"run": "run", "data": "faces", "target": ["t.png"]}
    assert "\nFID: protected against edited " in markdown({**told, **result})
    unmeasured = evaluate(*given)
    assert unmeasured["fid"] == NOT_MEASURED
    assert f"\nFID: {NOT_MEASURED}.\n" in markdown({**told, **unmeasured})


def test_a_target_with_several_pictures_is_tested_with_those_that_training_did_not_see(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(name.encode())
    a, b, c = sorted(tmp_path.iterdir())
    hashes = {path: sha256(path.read_bytes()).hexdigest() for path in (a, b, c)}
    assert unseen_pictures([a, b, c], [hashes[a]]) == [b, c]
    assert unseen_pictures([a], [hashes[a]]) == [a]
    assert unseen_pictures([a, b], list(hashes.values())) == [a, b]


def test_the_targets_embedding_is_the_mean_of_its_pictures():
    """White and black: (1, 1, 1, 0.1) and (0, 0, 0, 0.1) of length 1 each, the mean of length 1 again."""
    crops = np.stack([np.full((4, 4, 3), level, np.uint8) for level in (255, 0)])
    white = np.array([1, 1, 1, 0.1]) / np.sqrt(3.01)
    together = white + np.eye(4)[3]
    found = mean_embedding(MeanColour(), crops, np.zeros((2, 5, 2)))
    np.testing.assert_allclose(found, together / np.linalg.norm(together))


def test_uncalibrated_recognisers_are_refused(tmp_path):
    thresholds = Thresholds({}, {})
    with pytest.raises(ValueError, match="no thresholds of this file of 'colour'"):
        evaluate(tmp_path, tiny_pack(), [MeanColour()], {}, thresholds, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"models": {}, "seed": 0}', "it lacks pairs, pictures, recognizers; run: python -m benchmarks.eff"),
        ("[1]", "no attribute 'keys'"),
        ("{", "JSONDecodeError"),
    ],
)
def test_what_is_no_file_of_thresholds_is_named(tmp_path, text, message):
    (tmp_path / "cards.json").write_text(text)
    with pytest.raises(ValueError, match=f"cards.json is no file of thresholds: .*{message}"):
        read_thresholds(tmp_path / "cards.json")


def test_the_command_says_what_a_missing_run_needs(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "file").write_text("{}")
    options = {"run": "run", "data": "run", "recognizers": "file", "target": "file", "thresholds": "file"}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(tmp_path / value))]
    result = CliRunner().invoke(command, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "train first" in result.output
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(("option", "value"), [("--count", "0"), ("--quality", "101"), ("--threads", "0")])
def test_numbers_out_of_range_are_bad_usage(option, value):
    result = CliRunner().invoke(command, [option, value])
    assert result.exit_code == 2
    assert f"Invalid value for '{option}': {value} is not in the range" in result.output


def test_estimates_keep_their_counts():
    rates = owner_rates({"clean": np.array([A, B])}, np.array([[A], [B]]), [], {0.01: 0.5})
    assert isinstance(rates["clean"]["rank_1"], Estimate)
    assert rates["clean"]["rank_1"].count == 2
