"""The professional hacker: adversarial faces, LFW's halves, a hardened recogniser, and how it is measured."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch.nn import functional

from benchmarks.efficacy import harden
from benchmarks.efficacy.harden import write_cards, write_thresholds
from benchmarks.efficacy.hardened import hardenings
from benchmarks.efficacy.hardening import Hardening, Training, loss, trainable, write_hardened
from benchmarks.efficacy.lfw_split import split_lfw
from benchmarks.efficacy.pgd import Pgd
from benchmarks.efficacy.verification import (
    embed_all,
    impostor_thresholds,
    robustness,
    to_unit,
    view_2_accuracy,
)
from runtime.geometry import ARCFACE_TEMPLATE
from tests.strangers import SIDE, card, recognizer_file
from tests.tiny_training import stop
from training.data import FacePair
from training.evaluation import OnnxRecognizer, read_thresholds
from training.surrogates import RecognizerCard, load_cards


@pytest.fixture
def tiny(tmp_path: Path) -> RecognizerCard:
    return card(recognizer_file(tmp_path / "tiny.onnx"))


def faces(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def test_pgd_keeps_to_its_bound_and_moves_both_ways(tiny: RecognizerCard) -> None:
    embed, pictures = trainable(tiny).embed, to_unit(faces(4))
    pictures[0] = 1.0  # at the border of the range
    own = embed_all(trainable(tiny), pictures)
    goals, towards = own.roll(1, 0), torch.tensor([1.0, 1.0, -1.0, -1.0])
    attack = Pgd(steps=8, step=1 / 255)
    torch.manual_seed(0)
    moved = attack(embed, pictures, goals, towards)
    assert float((moved - pictures).abs().max()) <= attack.epsilon + 1e-6
    assert (float(moved.min()) >= 0, float(moved.max()) <= 1) == (True, True)
    gained = towards * ((embed_all(trainable(tiny), moved) - own) * goals).sum(1)
    assert bool((gained > 0).all())


def test_the_loss_is_zero_at_the_anchors_and_the_same_person_does_not_compete() -> None:
    """Three anchors along the axes; with persons 0, 0, 1 the first two compete with the third alone."""
    anchors = torch.eye(3)
    terms = loss(anchors, anchors, anchors, torch.arange(3), Hardening())
    assert {name: float(value) for name, value in terms.items()} == {"clean": 0.0, "attacked": 0.0}
    settings = Hardening(identity_weight=2.0, identity_scale=1.0)
    own = loss(anchors, anchors, anchors, torch.tensor([0, 0, 1]), settings)["identity"]
    e = np.e
    expected = 2 * (2 * np.log(1 + 1 / e) + np.log(1 + 2 / e)) / 3
    assert float(own) == pytest.approx(expected, rel=1e-5)


def hardened_by(tiny: RecognizerCard, folder: Path, settings: Hardening, *, stop_at: int = 0) -> Training:
    """Trained to the end, being stopped once if so asked."""
    folder.mkdir(exist_ok=True)
    people = [str(i // 2) for i in range(32)]
    if stop_at:
        stop(Training(tiny, faces(32), people, settings, folder), stop_at)
    training = Training(tiny, faces(32), people, settings, folder)
    assert training.done == stop_at
    assert training.run(None)
    return training


SETTINGS = Hardening(steps=8, batch=8, learning_rate=1e-3, identity_weight=0.1)


def test_a_resumed_hardening_is_an_uninterrupted_one(tiny: RecognizerCard, tmp_path: Path) -> None:
    whole = hardened_by(tiny, tmp_path / "whole", SETTINGS)
    parts = hardened_by(tiny, tmp_path / "parts", SETTINGS, stop_at=5)
    for a, b in zip(whole.parameters, parts.parameters, strict=True):
        assert torch.equal(a, b)
    assert whole.done == parts.done == 8


def test_a_hardening_refuses_other_settings_than_it_began_with(tiny: RecognizerCard, tmp_path: Path) -> None:
    hardened_by(tiny, tmp_path / "run", SETTINGS)
    other = dataclasses.replace(SETTINGS, learning_rate=1e-4)
    with pytest.raises(ValueError, match=r"tiny\.pt was trained with .*0\.001.*, expected .*0\.0001"):
        Training(tiny, faces(32), ["0"] * 32, other, tmp_path / "run")


def test_hardening_lowers_what_pgd_reaches_and_the_file_holds_it(
    tiny: RecognizerCard, tmp_path: Path
) -> None:
    settings = Hardening(steps=120, batch=8, learning_rate=3e-3, attack=Pgd(epsilon=16 / 255, step=8 / 255))
    trained = hardened_by(tiny, tmp_path / "run", settings)
    path = tmp_path / "hard.onnx"
    write_hardened(tiny, trained.recognizer.network, path)
    after = trainable(card(path))
    pictures = to_unit(faces(32))
    judge = Pgd(epsilon=16 / 255, steps=10, step=4 / 255)
    reached = [
        robustness(r, pictures, 0.9, judge, seed=0)["cosine_dodging"] for r in (trainable(tiny), after)
    ]
    assert reached[1] > reached[0] + 0.01
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (embedding,) = session.run(None, {"face": pictures.numpy()})
    with torch.no_grad():
        expected = functional.normalize(trained.recognizer.network(pictures), dim=1).numpy()
    assert embedding / np.linalg.norm(embedding, axis=1, keepdims=True) == pytest.approx(expected, abs=1e-5)


def test_only_convolutions_can_be_hardened(tmp_path: Path) -> None:
    matrix = card(recognizer_file(tmp_path / "matrix.onnx", gemm=True))
    with pytest.raises(ValueError, match=r"expected parameters of 2 convolutions alone, found 2 .* with"):
        write_hardened(matrix, trainable(matrix).network, tmp_path / "out.onnx")


def test_cards_hold_the_hardened_beside_the_original(tiny: RecognizerCard, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    recognizer_file(folder / "tiny_hardened.onnx")
    made = dataclasses.replace(tiny, name="tiny_hardened", path=folder / "tiny_hardened.onnx")
    write_cards(folder, tiny, made, "tiny, fine-tuned")
    cards = load_cards(folder / "cards.json")
    assert list(cards) == ["tiny", "tiny_hardened"]
    assert cards["tiny"].path.resolve() == tiny.path.resolve()
    raw = json.loads((folder / "cards.json").read_text())["models"]
    assert raw["tiny_hardened"]["origin"] == "tiny, fine-tuned"


def test_thresholds_are_of_the_very_files_and_are_added_to(tiny: RecognizerCard, tmp_path: Path) -> None:
    row = {"threshold": {"0.1": 0.1, "0.01": 0.2}, "impostors": {"pictures": 3, "pairs": 3}}
    write_thresholds(tmp_path, [(tiny, row)], 0)
    write_thresholds(tmp_path, [(dataclasses.replace(tiny, name="again"), row)], 0)
    thresholds = read_thresholds(tmp_path / "thresholds.json")
    assert thresholds.at("tiny", 0.01) == thresholds.at("again", 0.01) == 0.2
    assert thresholds.source == {"pictures": 3, "pairs": 3, "seed": 0}
    thresholds.check([OnnxRecognizer(tiny)])
    with pytest.raises(ValueError, match=r"thresholds of other pairs .* use another --folder"):
        write_thresholds(tmp_path, [(tiny, row)], 1)


def test_measuring_without_a_hardened_recogniser_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run: python -m benchmarks\.efficacy harden"):
        hardenings(tmp_path)
    (tmp_path / "x_hardened.json").write_text('{"steps": 3}')
    assert hardenings(tmp_path) == {"x_hardened": {"steps": 3}}


def lfw(root: Path, folds: list[list[str]]) -> Path:
    """Folds of people in twos: a pair of the first one's pictures, and a pair of both."""
    rows = [f"{len(folds)}\t{len(folds[0]) // 2}"]
    for fold in folds:
        couples = list(zip(fold[::2], fold[1::2], strict=True))
        same = [f"{first}\t1\t2" for first, _ in couples]
        different = [f"{first}\t1\t{second}\t1" for first, second in couples]
        rows += same + different
        for number, person in enumerate(fold):
            (root / person).mkdir(parents=True, exist_ok=True)
            for photo in (1, 2):
                pixels = np.random.default_rng([number, photo]).integers(0, 256, (24, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / person / f"{person}_{photo:04d}.jpg")
    (root / "pairs.txt").write_text("\n".join(rows) + "\n")
    return root


def test_lfws_folds_make_two_halves_that_share_nobody(tmp_path: Path) -> None:
    split = split_lfw(lfw(tmp_path, [["Ann", "Bob"], ["Cid", "Dee"], ["Eve", "Flo"]]), 1)
    assert split.hardening_people == ("Ann", "Bob")
    assert {photo.parent.name for photo in split.held_out_photos} == {"Cid", "Dee", "Eve", "Flo"}
    assert len(split.held_out) == 2
    with pytest.raises(ValueError, match="expected 1 to 2 folds to harden on, found 3"):
        split_lfw(tmp_path, 3)


def test_folds_that_share_people_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found 1 in both halves, e\.g\. Bob"):
        split_lfw(lfw(tmp_path, [["Ann", "Bob"], ["Bob", "Cid"]]), 1)


def test_the_command_writes_file_card_thresholds_and_figures(tiny: RecognizerCard, tmp_path: Path) -> None:
    """Landmarks are known beforehand, for noise shows no face."""
    names = [[f"{fold}{i:02d}" for i in range(12)] for fold in "ABC"]
    photos = lfw(tmp_path / "lfw", names).glob("*/*.jpg")
    out, cards = tmp_path / "out", tmp_path / "cards.json"
    out.mkdir()
    keys = [f"{photo.parent.name}/{photo.name}" for photo in photos]
    points = (ARCFACE_TEMPLATE * 24 / 112).astype(np.float32)
    np.savez(out / "landmarks.npz", photos=keys, landmarks=np.stack([points] * len(keys)))
    entry = {"role": "black-box", "file": str(tiny.path), "size": [SIDE, SIDE], "box": [0, 0, 112, 112]}
    cards.write_text(json.dumps({"models": {"tiny": entry}}))
    options = ["--lfw", str(tmp_path / "lfw"), "--recognizers", str(cards), "--folder", str(out)]
    options += ["--folds", "1", "--steps", "2", "--attacked", "4"]
    stopped = CliRunner().invoke(harden.command, [*options, "--name", "tiny", "--minutes", "0"])
    assert "0 of 2 steps; run the same command again to go on" in stopped.output
    assert not (out / "cards.json").exists()
    done = CliRunner().invoke(harden.command, [*options, "--name", "tiny"])
    assert done.exit_code == 0, done.output
    made = hardenings(out)["tiny_hardened"]
    assert made["people"] == 12
    assert made["hardened"]["lfw_accuracy"]["count"] == 2 * 2 * 6
    assert made["hardened"]["impostors"] == {"pictures": 24, "pairs": 276}
    assert made["original"]["pgd"]["dodging"]["count"] == 4
    thresholds = read_thresholds(out / "thresholds.json")
    thresholds.check([OnnxRecognizer(each) for each in load_cards(out / "cards.json").values()])
    unknown = CliRunner().invoke(harden.command, [*options, "--name", "none"])
    assert unknown.exit_code == 2
    assert "expected an ONNX recogniser of" in unknown.output
    assert "(tiny), found 'none'" in unknown.output


def test_view_2_takes_each_folds_threshold_from_the_others() -> None:
    """Fold 1: same 0.9, different 0.5; fold 2: same 0.4, different 0.1. Its threshold is (0.9 + 0.5) / 2
    for fold 2, which then loses the same pair, and (0.4 + 0.1) / 2 for fold 1, which takes both: 2 of 4."""
    paths = [Path(str(i)) for i in range(5)]

    def at(cosine: float) -> np.ndarray:
        return np.array([cosine, np.sqrt(1 - cosine**2)])

    embeddings = dict(zip(paths, map(at, (1.0, 0.9, 0.5, 0.4, 0.1)), strict=True))
    folds = [
        [FacePair(paths[0], paths[1], True), FacePair(paths[0], paths[2], False)],
        [FacePair(paths[0], paths[3], True), FacePair(paths[0], paths[4], False)],
    ]
    accuracy = view_2_accuracy(folds, embeddings)
    assert (accuracy.value, accuracy.count) == (0.5, 4)


def test_impostor_thresholds_are_quantiles_of_all_pairs() -> None:
    """Three people: cosines 0, 0 and 1. A tenth of the pairs lies above 0.8 by linear interpolation."""
    thresholds, pairs = impostor_thresholds(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    assert pairs == 3
    assert thresholds["0.1"] == pytest.approx(0.8)
