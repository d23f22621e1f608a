"""Rates worked out by hand, and a tiny run measured on saved crops."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from tests.tiny_run import NAMES, save_run
from tests.tiny_training import tiny_pack
from training.evaluation import Estimate, Thresholds, owner_rates
from training.evaluation.crops import evaluate, people, protect_and_restore
from training.evaluation.statistics import write_json
from training.evaluation.table import markdown

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
    text = markdown({"run": "run", "data": "faces", **result})
    assert "| colour | black-box |" in text
    write_json(result, tmp_path / "out.json")
    saved = json.loads((tmp_path / "out.json").read_text())
    assert saved["recognizers"]["colour"]["owner_found"]["clean"].keys() == {
        "rank_1",
        "verified_0.01",
        "verified_0.001",
    }


def test_uncalibrated_recognisers_are_refused(tmp_path):
    thresholds = Thresholds({}, {})
    with pytest.raises(ValueError, match="no thresholds of this file of 'colour'"):
        evaluate(tmp_path, tiny_pack(), [MeanColour()], {}, thresholds, {})


def test_the_command_says_what_a_missing_run_needs(tmp_path):
    from training.evaluation.__main__ import main

    (tmp_path / "run").mkdir()
    (tmp_path / "file").write_text("{}")
    options = {"run": "run", "data": "run", "recognizers": "file", "target": "file", "thresholds": "file"}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(tmp_path / value))]
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "train first" in result.output
    assert not (tmp_path / "out.json").exists()


def test_estimates_keep_their_counts():
    rates = owner_rates({"clean": np.array([A, B])}, np.array([[A], [B]]), [], {0.01: 0.5})
    assert isinstance(rates["clean"]["rank_1"], Estimate)
    assert rates["clean"]["rank_1"].count == 2
