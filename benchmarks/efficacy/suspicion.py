"""Cheats that good figures may come from, and what gives them away.

* An attack may return the target's photo: then the protected face is no picture of the owner any more.
* A restorer may return a face of nobody's: then all restored faces are alike, or no owner is accepted again.
* An anonymiser may return its input, which recognisers know best of all: then its face is the clean one.
* An anonymiser may inject no noise, though it says so: then two releases of a picture are one.
* A recogniser may be called held out that was trained against: then its network is one of the surrogates.

The last one is refused before anything is measured. The others are findings: they stand in the result, are
shown, and make the command fail once the result is written. Bounds lie between what honest bundles reach and
what the planted cheats do; docs/hackers.md has the figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from runtime.geometry import box_transform, warp
from training.evaluation.quality import quality_of
from training.evaluation.recognition import MeasuredEmbedder
from training.fingerprint import FIELD, Fingerprint, attacked_runs

from .published import Pixels

# The face alone, in ArcFace's frame: a small face cannot hide in a large picture.
_FRAME = (0.0, 0.0, 112.0, 112.0)
_SIDE_PX = 112
FACE_SSIM = 0.6


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What an honest figure keeps to."""

    words: str
    at_least: float = -math.inf
    at_most: float = math.inf


BOUNDS = {
    "protected_faces_changed": Bound(
        words=f"share of protected faces whose SSIM with the clean face is below {FACE_SSIM}", at_most=0.05
    ),
    "protected_ssim": Bound(words="mean SSIM of protected with clean pictures", at_least=0.7),
    "protected_lpips": Bound(words="mean LPIPS of protected with clean pictures", at_most=0.2),
    "restored_confused": Bound(
        words="share of pairs of restored faces that pass for one person, though the clean ones do not",
        at_most=0.25,
    ),
    "owner_accepted": Bound(words="share of owners accepted on their restored pictures", at_least=0.5),
    "anonymised_ssim": Bound(words="mean SSIM of anonymised with clean faces", at_most=0.9),
    "releases_ssim": Bound(words="mean SSIM of two releases of one face, with fresh noise", at_most=0.99),
}


@dataclass(frozen=True)
class Suspicion:
    """Something an honest bundle does not show.

    Attributes:
        what: a key of ``BOUNDS``, or what cannot be known.
        found: in words.
    """

    what: str
    found: str


def suspicions_of(figures: Mapping[str, float | None]) -> list[Suspicion]:
    """The figures that are out of their bounds; one that is not there, or NaN, is not judged."""
    found = []
    for name, bound in BOUNDS.items():
        value = figures.get(name)
        if value is not None and (value < bound.at_least or value > bound.at_most):
            side = f"at least {bound.at_least}" if value < bound.at_least else f"at most {bound.at_most}"
            found.append(Suspicion(name, f"{bound.words}: expected {side}, found {value:.3f}"))
    return found


def face_ssim(clean: Pixels, protected: Pixels, landmarks: NDArray[np.floating]) -> float:
    """SSIM of the face alone, both seen at the clean face's landmarks ``(5, 2)``."""
    matrix = box_transform(landmarks, _FRAME, (_SIDE_PX, _SIDE_PX))
    source, other = (warp(pixels, matrix, (_SIDE_PX, _SIDE_PX)) for pixels in (clean, protected))
    return quality_of(source, other)["ssim"]


def protection_figures(ssims: Sequence[float]) -> dict[str, float]:
    """How much protected faces changed.

    Args:
        ssims: of every face, see ``face_ssim``.

    Returns:
        Nothing without faces.
    """
    if not ssims:
        return {}
    each = np.array(ssims)
    return {
        "protected_face_ssim": float(each.mean()),
        "protected_faces_changed": float((each < FACE_SSIM).mean()),
    }


def restoration_figures(
    clean: Mapping[str, NDArray[np.floating]],
    restored: Mapping[str, NDArray[np.floating]],
    thresholds: Mapping[str, float],
) -> dict[str, float]:
    """Whether restored faces are one, and whether owners are accepted on them: means over the recognisers.

    Pictures may be of one person: only pairs that are told apart on the clean ones count for
    ``restored_confused``, which is NaN where there are none.

    Args:
        clean, restored: by recogniser, ``(N, d)``; NaN where no face was found, which is no owner's.
        thresholds: cosine at FAR 0.01, by recogniser.
    """
    confused, accepted = [], []
    for name, threshold in thresholds.items():
        accepted.append(float(np.mean((clean[name] * restored[name]).sum(1) > threshold)))
        before, after = _between_pictures(clean[name]), _between_pictures(restored[name])
        told_apart = (before <= threshold) & ~np.isnan(after)
        confused.append(float(np.mean(after[told_apart] > threshold)) if told_apart.any() else math.nan)
    return {"restored_confused": float(np.mean(confused)), "owner_accepted": float(np.mean(accepted))}


def _between_pictures(faces: NDArray[np.floating]) -> NDArray[np.floating]:
    """Cosine of each pair of ``(N, d)`` embeddings, ``(N (N - 1) / 2,)``."""
    return (faces @ faces.T)[np.triu_indices(len(faces), k=1)]


def check_held_out(recognizers: Sequence[MeasuredEmbedder], training: Mapping[str, Any]) -> list[Suspicion]:
    """Compares the black-box recognisers with what a bundle's networks were trained against.

    Args:
        training: of the bundle's manifest.

    Returns:
        A suspicion where the bundle does not say what its surrogates' files were.

    Raises:
        ValueError: a black-box recogniser is one of the surrogates, or the manifest is malformed.
    """
    held_out = {r.name: r.fingerprint() for r in recognizers if r.card.role == "black-box"}
    if not held_out:
        return []
    surrogates, unknown = recorded_surrogates(training)
    for name, fingerprint in held_out.items():
        for surrogate, recorded in surrogates:
            if fingerprint.same(recorded):
                raise ValueError(
                    f"{name!r} is called black-box, but the bundle was trained against this very network as "
                    f"{surrogate!r}; give its card the role white-box, or leave it out"
                )
    if not unknown:
        return []
    return [
        Suspicion(
            "held_out",
            f"not recorded which files the surrogates were ({', '.join(unknown)}): any held-out recogniser "
            "may be one; whoever knows records them: python -m export.annotate --surrogate NAME=FILE",
        )
    ]


def recorded_surrogates(training: Mapping[str, Any]) -> tuple[list[tuple[str, Fingerprint]], list[str]]:
    """The surrogates a manifest has fingerprints of, and the names of those it has none of.

    Raises:
        ValueError: the record is malformed.
    """
    known: list[tuple[str, Fingerprint]] = []
    unknown: list[str] = []
    try:
        for run in attacked_runs(training):
            prints = run.get(FIELD, {})
            known += [(name, Fingerprint(**raw)) for name, raw in prints.items()]
            unknown += [name for name in run.get("surrogates", ["all of them"]) if name not in prints]
    except (AttributeError, TypeError) as error:
        raise ValueError(f"the bundle's record of its surrogates is malformed: {error}") from error
    return known, sorted(set(unknown))


def finish(result: Mapping[str, Any]) -> None:
    """Shows a result's suspicions, in red on stderr; call it once the result is written.

    Raises:
        click.exceptions.Exit: with 1, if there are any.
    """
    console = Console(stderr=True, width=150, highlight=False)
    for suspicion in result["suspicions"]:
        console.print(f"SUSPICIOUS {suspicion['what']}: {suspicion['found']}", style="bold red", markup=False)
    if result["suspicions"]:
        raise click.exceptions.Exit(1)
