"""LFW's people in two halves that share nobody: to harden a recogniser on, and to measure it on.

The ten folds of View 2 are of different people (Huang et al., 2007, section 4), so folds make the halves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from runtime.detection import FaceDetector
from runtime.pictures import read_picture
from training.data import FacePair, read_lfw
from training.evaluation.recognition import align
from training.surrogates import RecognizerCard

from .recognition import find_main_face

SAVE_EVERY = 500  # pictures


@dataclass(frozen=True)
class LfwSplit:
    """LFW's pictures in two halves.

    Attributes:
        hardening: pictures of the people a recogniser may be trained on.
        held_out: the other people's folds of pairs.
    """

    hardening: tuple[Path, ...]
    held_out: tuple[tuple[FacePair, ...], ...]

    @property
    def held_out_photos(self) -> tuple[Path, ...]:
        """The held-out people's pictures."""
        return photos_of(self.held_out)

    @property
    def hardening_people(self) -> tuple[str, ...]:
        """Names of the people that are trained on: calibration must leave them out."""
        return tuple(sorted({photo.parent.name for photo in self.hardening}))


def photos_of(folds: Iterable[Sequence[FacePair]]) -> tuple[Path, ...]:
    """Every picture of some folds, once."""
    return tuple(sorted({photo for fold in folds for pair in fold for photo in (pair.path_a, pair.path_b)}))


def split_lfw(root: Path, hardening_folds: int) -> LfwSplit:
    """The first folds to harden on, the others held out.

    Args:
        root: LFW's, see ``training.data.read_lfw``.

    Raises:
        DataError: it is not LFW.
        ValueError: a half is empty, or somebody is in both.
    """
    folds = read_lfw(root)
    if not 0 < hardening_folds < len(folds):
        raise ValueError(f"expected 1 to {len(folds) - 1} folds to harden on, found {hardening_folds}")
    hardening, held_out = photos_of(folds[:hardening_folds]), folds[hardening_folds:]
    both = {p.parent.name for p in hardening} & {p.parent.name for p in photos_of(held_out)}
    if both:
        raise ValueError(
            f"expected folds of different people, found {len(both)} in both halves, e.g. {min(both)}"
        )
    return LfwSplit(hardening, tuple(map(tuple, held_out)))


def find_landmarks(photos: Sequence[Path], detector: FaceDetector, cache: Path) -> dict[Path, NDArray]:
    """Landmarks ``(5, 2)`` of each picture's central face; pictures without one are left out.

    Args:
        cache: a file that keeps what was found, by person and name; rerun to go on where it stopped.
    """
    known: dict[str, NDArray] = {}
    if cache.exists():
        kept = np.load(cache)
        known = dict(zip(kept["photos"].tolist(), kept["landmarks"], strict=True))

    def save() -> None:
        partial = cache.with_suffix(".partial.npz")
        np.savez(partial, photos=list(known), landmarks=np.stack(list(known.values())))
        partial.replace(cache)

    missing = [photo for photo in photos if _key(photo) not in known]
    for number, photo in enumerate(track(missing, "landmarks", disable=not missing), 1):
        face = find_main_face(read_picture(photo).pixels, detector)
        known[_key(photo)] = np.full((5, 2), np.nan) if face is None else np.asarray(face.landmarks)
        if number % SAVE_EVERY == 0:
            save()
    if missing:
        save()
    return {photo: known[_key(photo)] for photo in photos if not np.isnan(known[_key(photo)]).any()}


def _key(photo: Path) -> str:
    return f"{photo.parent.name}/{photo.name}"


def aligned_faces(
    photos: Sequence[Path], landmarks: Mapping[Path, NDArray], card: RecognizerCard
) -> NDArray[np.uint8]:
    """Faces at a recogniser's own template and size: ``(N, H, W, 3)`` RGB."""
    return np.stack(
        [
            np.rint(255 * align(read_picture(photo).pixels, landmarks[photo], card)).astype(np.uint8)
            for photo in photos
        ]
    )
