"""A recogniser on LFW's held-out people: does it still recognise, and what does PGD do to it?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data import FacePair
from training.evaluation import Embedding, Estimate, share_of
from training.surrogates import Recognizer

from .pgd import Pgd
from .recognition import FARS

BATCH = 32


def to_unit(faces: NDArray[np.uint8]) -> Tensor:
    """``(N, H, W, 3)`` uint8 to ``(N, 3, H, W)`` float32 in [0, 1]."""
    return torch.from_numpy(faces).permute(0, 3, 1, 2).float() / 255


def embed_all(recognizer: Recognizer, faces: Tensor) -> Tensor:
    """``(N, d)`` of faces ``(N, 3, H, W)`` in [0, 1] at its template and size."""
    with torch.no_grad():
        return torch.cat([recognizer.embed(part) for part in faces.split(BATCH)])


def impostor_thresholds(strangers: NDArray[np.floating]) -> tuple[dict[str, float], int]:
    """Cosine by false accept rate over all pairs of different people, and the number of pairs.

    Args:
        strangers: ``(N, d)`` unit-norm embeddings of as many people.
    """
    cosines = (strangers @ strangers.T)[np.triu_indices(len(strangers), k=1)]
    return {str(far): float(np.quantile(cosines, 1 - far)) for far in FARS}, len(cosines)


def view_2_accuracy(
    folds: Sequence[Sequence[FacePair]],
    embeddings: Mapping[Path, Embedding],
    others: Mapping[Path, Embedding] | None = None,
) -> Estimate:
    """Share of pairs told right; each fold by the cosine that is best on the others.

    Pairs of which a picture has no embedding are left out. One whose embedding is NaN, a face that was lost,
    is told wrong.

    Args:
        others: of the pairs' second pictures; None: as of the first ones.
    """
    cosines, same = [], []
    for fold in folds:
        found = pair_cosines(fold, embeddings, embeddings if others is None else others)
        cosines.append(found[0])
        same.append(found[1])
    hits = []
    for index in range(len(folds)):
        rest = [i for i in range(len(folds)) if i != index]
        best = _best_threshold(
            np.concatenate([cosines[i] for i in rest]), np.concatenate([same[i] for i in rest])
        )
        hits.append(((cosines[index] > best) == same[index]) & ~np.isnan(cosines[index]))
    return share_of(np.concatenate(hits))


def pair_cosines(
    pairs: Sequence[FacePair], embeddings: Mapping[Path, Embedding], others: Mapping[Path, Embedding]
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Cosines of the pairs whose pictures have embeddings, and whether each shows one person.

    Args:
        embeddings, others: of the pairs' first and of their second pictures.
    """
    known = [p for p in pairs if p.path_a in embeddings and p.path_b in others]
    cosines = np.array([embeddings[p.path_a] @ others[p.path_b] for p in known])
    return cosines, np.array([p.same for p in known], dtype=bool)


def _best_threshold(cosines: NDArray[np.floating], same: NDArray[np.bool_]) -> float:
    """The middle between two neighbouring cosines that tells most pairs right; NaN does not count.

    Without any it is NaN, which nothing exceeds.
    """
    known = ~np.isnan(cosines)
    if not known.any():
        return math.nan
    cosines, same = cosines[known], same[known]
    order = np.argsort(cosines)
    cosines, same = cosines[order], same[order]
    # Right with a threshold above the first k: the different pairs among these, the same ones among the rest.
    right = np.concatenate([[0], np.cumsum(~same)]) + same.sum() - np.concatenate([[0], np.cumsum(same)])
    edges = np.concatenate([[cosines[0] - 1], (cosines[1:] + cosines[:-1]) / 2, [cosines[-1] + 1]])
    return float(edges[right.argmax()])


def robustness(
    recognizer: Recognizer, faces: Tensor, threshold: float, attack: Pgd, *, seed: int
) -> dict[str, Any]:
    """How often an attack made on this very recogniser succeeds, at its own threshold (FAR 0.01).

    Args:
        faces: ``(N, 3, H, W)`` in [0, 1], of different people.

    Returns:
        ``impersonation``: the attacked face passes for the next person's; ``dodging``: it does not pass for
        its own clean picture any more; ``impersonation_clean``: the clean face passes for the next person's;
        and the mean cosines in these cases, ``cosine_clean`` and so on.
    """
    torch.manual_seed(seed)
    own = embed_all(recognizer, faces)
    other = own.roll(1, 0)
    found: dict[str, Tensor] = {"clean": (own * other).sum(1)}
    for name, goals, sign in (("impersonation", other, 1.0), ("dodging", own, -1.0)):
        attacked = [
            attack(recognizer.embed, part, goal, torch.full((len(part),), sign))
            for part, goal in zip(faces.split(BATCH), goals.split(BATCH), strict=True)
        ]
        found[name] = (embed_all(recognizer, torch.cat(attacked)) * goals).sum(1)
    cosines = {name: values.numpy() for name, values in found.items()}
    return {
        "impersonation_clean": share_of(cosines["clean"] > threshold),
        "impersonation": share_of(cosines["impersonation"] > threshold),
        "dodging": share_of(cosines["dodging"] < threshold),
        **{f"cosine_{name}": float(values.mean()) for name, values in cosines.items()},
    }
