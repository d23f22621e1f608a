"""An attacker's reconstructors, which learn from own faces and the public bundle to undo an anonymisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.manifest import Bundle
from training.evaluation.crops import Crops

from .erasers import Erase, by_network
from .privacy import aligned
from .published import Pixels
from .purifier import Learning, PurifierTraining
from .releases import Releaser, averaged, make_releases

MEAN_FACE = "mean face"


@dataclass(frozen=True, kw_only=True)
class Reconstructor:
    """One attacker.

    Attributes:
        releases: of one photo, which it averages and then undoes.
        reconstruct: undoes it.
        training: how it was trained, JSON-like; nothing where it was not.
    """

    releases: int
    reconstruct: Erase
    training: dict[str, Any] = field(default_factory=dict)


def mean_face(faces: Crops) -> Reconstructor:
    """Says of every face that it is the mean one: what is reached by somebody who does not look.

    Args:
        faces: the attacker's own, ``(N, S, S, 3)``.
    """
    mean = np.rint(np.mean(faces, axis=0, dtype=np.float64)).astype(np.uint8)
    return Reconstructor(releases=1, reconstruct=lambda asked: np.repeat(mean[None], len(asked), axis=0))


@dataclass(frozen=True)
class Attacked:
    """A face, what was published of it, and what attackers make of that: aligned, ``(S, S, 3)`` each."""

    source: Pixels
    releases: list[Pixels]
    reconstructed: dict[str, Pixels]


def attack(
    clean: Pixels,
    landmarks: NDArray[np.floating],
    attackers: Mapping[str, Reconstructor],
    releaser: Releaser,
    *,
    strength: float,
    picture: int,
) -> Attacked:
    """Publishes a picture as often as the greediest attacker wants it, and lets each have its releases.

    Args:
        landmarks: ``(5, 2)`` of the clean face, which attackers have, too: found by hand, say.
        picture: its number, see ``Releaser.release``.
    """
    size = releaser.bundle.manifest.image_size
    releases = [
        aligned(releaser.release(clean, strength=strength, picture=picture, number=n), landmarks, size)
        for n in range(max(attacker.releases for attacker in attackers.values()))
    ]
    reconstructed = {
        name: attacker.reconstruct(averaged(releases[: attacker.releases])[None])[0]
        for name, attacker in attackers.items()
    }
    return Attacked(aligned(clean, landmarks, size), releases, reconstructed)


def train_reconstructor(
    bundle: Bundle,
    faces: Crops,
    folder: Path,
    *,
    strength: float,
    releases: int,
    steps: int,
    quality: int,
    seed: int,
    threads: int | None,
    minutes_left: Callable[[], float | None],
) -> Reconstructor | None:
    """Trains a U-Net on the means of several releases of each face.

    Args:
        faces: the attacker's own, ``(N, S, S, 3)``.
        folder: keeps pairs and training; rerun to go on.
        strength: of the noise.
        releases: of each face.
        minutes_left: None for as long as it takes.

    Returns:
        None where the minutes were over first.
    """
    pairs = make_releases(
        bundle,
        faces,
        folder,
        strength=strength,
        releases=releases,
        quality=quality,
        seed=seed,
        threads=threads,
    )
    learning = Learning(pairs=len(faces), steps=steps, jitter=0.0, masked=False, structure=1.0, seed=seed)
    kept = folder / f"strength-{strength:g}-releases-{releases}"
    kept.mkdir(parents=True, exist_ok=True)
    training = PurifierTraining(pairs, learning, kept)
    if not training.run(minutes_left()):
        return None
    told = {**training.given, "seconds": training.seconds, "losses": training.curve[-1]}
    return Reconstructor(releases=releases, reconstruct=by_network(training.network), training=told)
