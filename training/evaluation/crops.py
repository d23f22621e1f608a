"""A run's checkpoint measured on aligned crops that were saved as JPEG and read again.

Quicker than exporting and pasting into whole pictures (``benchmarks.efficacy pictures``), for comparing runs:
same rates, but the landmarks are those of the clean crop, not found anew.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..batches import to_network
from ..checkpoint import load_networks
from ..data import FacePack
from ..stages.publish import Publish
from .frechet import frechet_distances
from .quality import MEASURES, quality_of
from .rates import FAR_ATTACK, FAR_ERASURE, FARS_OWNER, VERSIONS, attack_rates, owner_rates
from .recognition import Embedder, Embedding, Thresholds
from .statistics import mean_of

BATCH = 32
# Which versions are compared, and what that is called.
PAIRS = {
    "protected against edited": ("edited", "protected"),
    "protected against clean": ("clean", "protected"),
    "restored against clean": ("clean", "restored"),
}

Crops = NDArray[np.uint8]


@dataclass(frozen=True)
class Versions:
    """``(N, S, S, 3)`` uint8 crops: as they were, edited alone, as published, as the authority restores."""

    clean: Crops
    edited: Crops
    protected: Crops
    restored: Crops


def jpeg(crops: Crops, quality: int) -> Crops:
    """Every crop saved as JPEG and read again."""

    def saved(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
        file = io.BytesIO()
        Image.fromarray(crop).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))

    return np.stack([saved(crop) for crop in crops])


def to_uint8(faces: Tensor) -> Crops:
    """``(N, 3, S, S)`` in [-1, 1] to ``(N, S, S, 3)`` uint8, rounded."""
    levels = ((faces.float() + 1) * 127.5).round().clamp(0, 255)
    return levels.permute(0, 2, 3, 1).to(torch.uint8).numpy()


@torch.no_grad()
def protect_and_restore(
    run: Path,
    crops: Crops,
    attributes: NDArray[np.uint8],
    *,
    quality: int,
    strength: float | None = None,
) -> Versions:
    """Protects crops with a run's averaged networks, saves them, and restores the saved ones.

    Args:
        run: a training run's folder.
        attributes: ``(N, n)`` the faces' own: nothing is edited but what protection needs.
        quality: of the JPEG files.
        strength: 1 - beta of Eq. 6, in [0, 1]; None for the run's own.
    """
    config, generator, restorer, _, _ = load_networks(run)
    publish = Publish(config.network.image_size, masked=config.paste_mask)
    settings = config.attack_settings
    strength = settings.strength if strength is None else strength
    made: list[tuple[Crops, Crops, Crops]] = []
    for start in range(0, len(crops), BATCH):
        face = to_network(crops[start : start + BATCH])
        labels = torch.from_numpy(np.array(attributes[start : start + BATCH], dtype=np.float32))
        edited = publish(face, generator.edit(face, labels))
        protected = publish(face, generator(face, labels, strength, settings.injection))
        published = jpeg(to_uint8(protected), quality)
        received = to_network(published)
        restored = jpeg(to_uint8(publish(received, restorer(received))), quality)
        made.append((to_uint8(edited), published, restored))
    edited_all, protected_all, restored_all = (np.concatenate(column) for column in zip(*made, strict=True))
    return Versions(crops, edited_all, protected_all, restored_all)


def people(pack: FacePack) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One picture a person and others of the same person.

    Returns:
        ``(P,)`` indices of the first picture and ``(P, m)`` of the next m, m the most that every person has
        (people with a single picture are left out).

    Raises:
        ValueError: nobody has two pictures.
    """
    by_person: dict[int, list[int]] = {}
    for index, person in enumerate(pack.identities):
        by_person.setdefault(int(person), []).append(index)
    groups = [indices for indices in by_person.values() if len(indices) > 1]
    if not groups:
        raise ValueError("expected people with at least two pictures, found none")
    m = min(map(len, groups)) - 1
    return np.array([g[0] for g in groups]), np.array([g[1 : m + 1] for g in groups])


def evaluate(
    run: Path,
    pack: FacePack,
    recognizers: Sequence[Embedder],
    roles: dict[str, str],
    thresholds: Thresholds,
    targets: dict[str, Embedding],
    *,
    quality: int = 95,
    strength: float | None = None,
    count: int | None = None,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    inception: Callable[[Crops], NDArray[np.float32]] | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> dict[str, Any]:
    """All rates of a run by recogniser, and picture quality.

    Args:
        pack: faces of people with several pictures each; the first of each is protected.
        roles: white-box or black-box by recogniser.
        targets: the target's embedding by recogniser.
        strength: see ``protect_and_restore``.
        count: only the first so many people.
        perceptual: LPIPS, or None to leave it out.
        inception: the features of FID, or None where there are no weights.
    """
    thresholds.check(recognizers)
    first, others = people(pack)
    first, others = first[:count], others[:count]
    versions = protect_and_restore(
        run, pack.crops[first], pack.attributes[first], quality=quality, strength=strength
    )
    crops = {version.name: getattr(versions, version.name) for version in dataclasses.fields(versions)}
    features = {name: inception(pictures) for name, pictures in crops.items()} if inception else None
    rows = {}
    for recognizer in progress(recognizers):
        faces = {name: _embed(recognizer, crops[name], pack.landmarks[first]) for name in VERSIONS}
        gallery = _embed(recognizer, pack.crops[others.ravel()], pack.landmarks[others.ravel()])
        name = recognizer.name
        rows[name] = {
            "role": roles[name],
            **attack_rates(
                faces,
                targets[name],
                attack_threshold=thresholds.at(name, FAR_ATTACK),
                erasure_threshold=thresholds.at(name, FAR_ERASURE),
            ),
            "owner_found": owner_rates(
                faces,
                gallery.reshape(*others.shape, -1),
                [targets[name]],
                {far: thresholds.at(name, far) for far in FARS_OWNER},
            ),
        }
    return {
        "people": len(first),
        "other_photos": others.shape[1],
        "jpeg_quality": quality,
        "quality": {title: _quality(crops[a], crops[b], perceptual) for title, (a, b) in PAIRS.items()},
        "fid": frechet_distances(features, PAIRS),
        "recognizers": rows,
    }


def mean_embedding(
    recognizer: Embedder, crops: Crops, landmarks: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Unit-norm mean ``(d,)`` of the embeddings of one person's pictures."""
    mean = _embed(recognizer, crops, landmarks).mean(0)
    return mean / np.linalg.norm(mean)


def _embed(recognizer: Embedder, crops: Crops, landmarks: NDArray[np.floating]) -> NDArray[np.float32]:
    return np.stack([recognizer.embed(c, p) for c, p in zip(crops, landmarks, strict=True)])


def _quality(
    source: Crops, other: Crops, perceptual: Callable[[Tensor, Tensor], Tensor] | None
) -> dict[str, Any]:
    each = [quality_of(a, b) for a, b in zip(source, other, strict=True)]
    measured = {measure: mean_of(np.array([q[measure] for q in each])) for measure in MEASURES}
    if perceptual is not None:
        with torch.no_grad():
            distances = [perceptual(to_network(b), to_network(a)) for a, b in _batches(source, other)]
        measured["lpips"] = mean_of(torch.cat(distances).numpy())
    return measured


def _batches(source: Crops, other: Crops) -> Iterator[tuple[Crops, Crops]]:
    for start in range(0, len(source), BATCH):
        yield source[start : start + BATCH], other[start : start + BATCH]
