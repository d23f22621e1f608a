"""``benchmarks.efficacy harden``: a professional hacker's recogniser, fine-tuned against adversarial faces.

Written as an ONNX file with a card, so that ``calibrate`` and ``hardened`` measure it like any other.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from runtime.detection import FaceDetector
from runtime.manifest import open_bundle, sha256_of
from runtime.shipped import default_bundle
from training.evaluation import FAR_ATTACK
from training.evaluation.statistics import write_json
from training.monitor import fixed_threads
from training.surrogates import Recognizer, RecognizerCard, load_cards, load_recognizer

from ..common import as_click_errors, environment
from ..schema import read_result, write_result
from .hardening import Hardening, Training, write_hardened
from .lfw_split import LfwSplit, aligned_faces, find_landmarks, split_lfw
from .pgd import Pgd
from .verification import embed_all, impostor_thresholds, robustness, to_unit, view_2_accuracy

# Stronger than what the recogniser was trained with.
JUDGE = Pgd(steps=10, step=1 / 255)


def measure(
    recognizer: Recognizer, split: LfwSplit, landmarks: Mapping[Path, NDArray], *, attacked: int, seed: int
) -> dict[str, Any]:
    """Accuracy, thresholds and robustness on the people who were held out.

    Args:
        attacked: how many faces PGD is made for.
    """
    photos = [photo for photo in split.held_out_photos if photo in landmarks]
    faces = aligned_faces(photos, landmarks, recognizer.card)
    embeddings = dict(zip(photos, embed_all(recognizer, to_unit(faces)).numpy(), strict=True))
    first: dict[str, int] = {}
    for index, photo in enumerate(photos):
        first.setdefault(photo.parent.name, index)
    thresholds, pairs = impostor_thresholds(np.stack([embeddings[photos[i]] for i in first.values()]))
    chosen = np.random.default_rng(seed).choice(list(first.values()), attacked, replace=False)
    threshold = thresholds[str(FAR_ATTACK)]
    return {
        "lfw_accuracy": view_2_accuracy(split.held_out, embeddings),
        "threshold": thresholds,
        "impostors": {"pictures": len(first), "pairs": pairs},
        "pgd": robustness(recognizer, to_unit(faces[chosen]), threshold, JUDGE, seed=seed),
    }


def write_cards(folder: Path, original: RecognizerCard, hardened: RecognizerCard, origin: str) -> None:
    """Adds both to the folder's cards file, for the one is measured beside the other."""
    path = folder / "cards.json"
    models = json.loads(path.read_text(encoding="utf-8"))["models"] if path.exists() else {}
    for card, told in ((original, None), (hardened, origin)):
        assert card.path is not None
        models[card.name] = {
            "role": card.role,
            "file": os.path.relpath(card.path, folder),
            "size": card.size_hw,
            "box": card.box,
            "mean": card.mean,
            "std": card.std,
            "colour": card.colour,
            **({"origin": told} if told else {}),
        }
    path.write_text(json.dumps({"models": models}, indent=2) + "\n", encoding="utf-8")


def write_thresholds(
    folder: Path, measured: Sequence[tuple[RecognizerCard, dict[str, Any]]], seed: int
) -> None:
    """Adds both to a file like ``calibrate``'s, whose people nobody was hardened on.

    Raises:
        ValueError: what is there was calibrated on other pairs.
    """
    path = folder / "thresholds.json"
    impostors = {**measured[0][1]["impostors"], "seed": seed}
    known = {}
    if path.exists():
        earlier = read_result(path)
        if (found := {key: earlier[key] for key in impostors}) != impostors:
            raise ValueError(
                f"{path} has thresholds of other pairs ({found}, expected {impostors}); use another --folder"
            )
        known = earlier["recognizers"]
    for card, row in measured:
        assert card.path is not None
        known[card.name] = {"sha256": sha256_of(card.path.read_bytes()), "threshold": row["threshold"]}
    write_result(
        {
            "benchmark": "calibrate",
            "environment": environment(),
            "data": "LFW's held-out folds",
            **impostors,
            "recognizers": known,
        },
        path,
    )


@click.command()
@click.option("--lfw", required=True, type=click.Path(path_type=Path, exists=True), help="With pairs.txt.")
@click.option("--recognizers", "cards", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--name", required=True, help="Of the recogniser to harden.")
@click.option("--folder", required=True, type=click.Path(path_type=Path), help="Kept; rerun to go on.")
@click.option("--folds", default=5, show_default=True, help="LFW's folds to train on; the rest is held out.")
@click.option("--steps", default=Hardening.steps, show_default=True)
@click.option("--learning-rate", default=Hardening.learning_rate, show_default=True)
@click.option("--identity-weight", default=Hardening.identity_weight, show_default=True)
@click.option("--attacked", default=64, show_default=True, help="Held-out faces that PGD is made for.")
@click.option("--minutes", type=float, help="Train no longer than this now.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", type=int, help="CPU threads.")
def command(
    lfw: Path,
    cards: Path,
    name: str,
    folder: Path,
    folds: int,
    steps: int,
    learning_rate: float,
    identity_weight: float,
    attacked: int,
    minutes: float | None,
    seed: int,
    threads: int | None,
) -> None:
    """Hardens a recogniser by adversarial training on LFW, and measures what that changed.

    The folder gets NAME_hardened.onnx, NAME_hardened.json, and cards.json and thresholds.json with the
    original and the hardened one, for benchmarks.efficacy hardened.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("benchmarks").setLevel(logging.INFO)
    fixed_threads(threads)
    folder.mkdir(parents=True, exist_ok=True)
    with as_click_errors():
        known = load_cards(cards)
        if name not in known or known[name].path is None:
            raise click.BadParameter(
                f"expected an ONNX recogniser of {cards} ({', '.join(known)}), found {name!r}"
            )
        original = known[name]
        split = split_lfw(lfw, folds)
        with FaceDetector.from_bundle(open_bundle(default_bundle("public")), threads=threads) as detector:
            landmarks = find_landmarks(
                [*split.hardening, *split.held_out_photos], detector, folder / "landmarks.npz"
            )
        photos = [photo for photo in split.hardening if photo in landmarks]
        training = Training(
            original,
            aligned_faces(photos, landmarks, original),
            [photo.parent.name for photo in photos],
            Hardening(steps=steps, learning_rate=learning_rate, identity_weight=identity_weight, seed=seed),
            folder,
        )
        if not training.run(minutes):
            click.echo(f"{training.done} of {steps} steps; run the same command again to go on")
            return
        path = folder / f"{name}_hardened.onnx"
        hardened = dataclasses.replace(original, name=path.stem, role="black-box", path=path)
        write_hardened(original, training.recognizer.network, path)
        origin = f"{name}, adversarially fine-tuned on LFW's folds 1 to {folds}; never trained against"
        write_cards(folder, original, hardened, origin)
        measured = {
            card.name: measure(load_recognizer(card), split, landmarks, attacked=attacked, seed=seed)
            for card in (original, hardened)
        }
        write_thresholds(folder, [(card, measured[card.name]) for card in (original, hardened)], seed)
    result = {
        "environment": environment(),
        "origin": origin,
        "role_of_origin": original.role,
        "settings": dataclasses.asdict(training.settings),
        "judge": dataclasses.asdict(JUDGE),
        "faces": len(photos),
        "people": len(split.hardening_people),
        "seconds": training.seconds,
        "losses": training.curve[-1],
        "original": measured[name],
        "hardened": measured[hardened.name],
    }
    write_json(result, folder / f"{hardened.name}.json")
    for version, row in measured.items():
        pgd = row["pgd"]
        click.echo(
            f"{version}: LFW accuracy {row['lfw_accuracy'].value:.4f}, PGD impersonation "
            f"{pgd['impersonation'].value:.2f}, dodging {pgd['dodging'].value:.2f}"
        )
