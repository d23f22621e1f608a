"""One person's published picture, as every eraser leaves it, kept on disk so that measuring can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.pictures import read_picture
from training.evaluation import FAR_ATTACK, FAR_ERASURE, attack_rates, owner_rates
from training.evaluation.rates import FARS_OWNER

from ..common import digest_of
from .pictures import Perceptual, quality_and_distances
from .protocol import Faces, Laboratory, matrix
from .published import Publisher, decode


@dataclass(frozen=True)
class Person:
    """One person's published picture, as it was and as every eraser leaves it.

    Attributes:
        shown: embeddings of ``clean``, ``protected``, and of each eraser's file by its name.
        others: of the person's other photos.
        quality: measures of each eraser's file against the clean picture.
        face_ssim: of the protected face with the clean one.
    """

    shown: dict[str, Faces]
    others: list[Faces]
    quality: dict[str, dict[str, float]]
    face_ssim: float


def run_person(
    photos: Sequence[Path],
    laboratory: Laboratory,
    erasers: Mapping[str, Publisher],
    perceptual: Mapping[str, Perceptual],
) -> Person | None:
    """Publishes the first photo and lets every eraser have the file; None without a face to protect."""
    made = laboratory.protect(photos[0])
    if made is None:
        return None
    clean, published_file = made
    published = decode(published_file)
    shown = {"clean": laboratory.embed(clean), "protected": laboratory.embed(published)}
    quality = {}
    for name, eraser in erasers.items():
        file = eraser.erase(published)
        erased = None if file is None else decode(file)
        shown[name] = laboratory.embed(erased)
        # What could not be erased stays as it was published.
        quality[name] = quality_and_distances(perceptual, clean, published if erased is None else erased)
    others = [laboratory.embed(read_picture(photo).pixels) for photo in photos[1:]]
    return Person(shown, others, quality, laboratory.face_ssims[-1])


class Shelf:
    """Keeps people in a folder by their first photo.

    Args:
        folder: gets a folder for what is measured.
        measured: everything that a person's figures depend on, JSON-like.
    """

    def __init__(self, folder: Path, measured: Mapping[str, Any]) -> None:
        self._folder = folder / f"people-{digest_of(measured)[:12]}"
        self._folder.mkdir(parents=True, exist_ok=True)

    def has(self, photo: Path) -> bool:
        """Whether the person was measured."""
        return self._path(photo).exists()

    def put(self, photo: Path, person: Person | None) -> None:
        """Keeps a person, whole or not at all; None for one without a face to protect."""
        partial = self._path(photo).with_suffix(".partial")
        partial.write_text(json.dumps(person and asdict(person), default=lambda array: array.tolist()))
        os.replace(partial, self._path(photo))

    def get(self, photo: Path) -> Person | None:
        """What was put."""
        raw = json.loads(self._path(photo).read_text())
        if raw is None:
            return None
        shown = {name: _embeddings(faces) for name, faces in raw["shown"].items()}
        return Person(**{**raw, "shown": shown, "others": list(map(_embeddings, raw["others"]))})

    def _path(self, photo: Path) -> Path:
        return self._folder / f"{photo.stem}.json"


def _embeddings(faces: dict[str, list[float]] | None) -> Faces:
    if faces is None:
        return None
    return {name: np.array(values, np.float32) for name, values in faces.items()}


def rates_of(people: Sequence[Person], laboratory: Laboratory, eraser: str) -> dict[str, Any]:
    """By recogniser: against the target and the very picture that was protected, and by other photos."""
    rows = {}
    for name, role in laboratory.roles.items():
        target = laboratory.target[name]
        versions = {"clean": "clean", "protected": "protected", "restored": eraser}
        faces = {
            version: matrix([person.shown[key] for person in people], name, len(target))
            for version, key in versions.items()
        }
        attacked = attack_rates(
            faces,
            target,
            attack_threshold=laboratory.thresholds.at(name, FAR_ATTACK),
            erasure_threshold=laboratory.thresholds.at(name, FAR_ERASURE),
        )
        others = np.stack([matrix(person.others, name, len(target)) for person in people])
        limits = {far: laboratory.thresholds.at(name, far) for far in FARS_OWNER}
        found = owner_rates(faces, others, [target], limits)
        rows[name] = {
            "role": role,
            "esr": attacked["esr"],
            "owner_accepted": attacked["owner_accepted_restored"],
            "by_other_photos": {"clean": found["clean"], "erased": found["restored"]},
        }
    return rows
