"""Rates of one recogniser from its embeddings: Eqs. 17 and 18, and whether the owner is lost or found.

Embeddings are ``(N, d)``, unit norm, a row of NaN where no face was found on the saved file. Such a face
never counts as a success: not of the attack, not of the erasure, not of the owner's acceptance. It has no
cosine, so means, the dodging rate and the rates at which strangers find the owner leave it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .statistics import Estimate, mean_of, share_of

VERSIONS = ("clean", "protected", "restored")
FAR_ATTACK = 0.01  # tau_1, Eq. 17
FAR_ERASURE = 0.1  # tau_2, Eq. 18
FARS_OWNER = (0.01, 0.001)


def _known(cosines: NDArray[np.floating]) -> NDArray[np.floating]:
    return cosines[~np.isnan(cosines)]


def attack_rates(
    faces: Mapping[str, NDArray[np.floating]],
    target: NDArray[np.floating],
    *,
    attack_threshold: float,
    erasure_threshold: float,
) -> dict[str, Estimate | dict[str, Estimate]]:
    """Impersonation, dodging and erasure against the target and the very picture that was protected.

    Args:
        faces: embeddings of the ``clean``, ``protected`` and ``restored`` pictures, in the same order.
        target: ``(d,)`` of the target.
        attack_threshold: tau_1, cosine at FAR 0.01.
        erasure_threshold: tau_2, cosine at FAR 0.1.
    """
    to_target = {version: faces[version] @ target for version in VERSIONS}
    to_owner = {version: (faces[version] * faces["clean"]).sum(1) for version in VERSIONS[1:]}
    return {
        "cosine_to_target": {v: mean_of(_known(c)) for v, c in to_target.items()},
        "cosine_to_owner": {v: mean_of(_known(c)) for v, c in to_owner.items()},
        # Comparisons with NaN are false: a lost face is no success.
        "asr_clean": share_of(to_target["clean"] > attack_threshold),
        # About 0.9, since tau_2 admits a tenth of all strangers: what ESR is to be compared with.
        "esr_clean": share_of(to_target["clean"] < erasure_threshold),
        "asr": share_of(to_target["protected"] > attack_threshold),
        "esr": share_of(to_target["restored"] < erasure_threshold),
        "dodging": share_of(_known(to_owner["protected"]) < attack_threshold),
        "owner_accepted_restored": share_of(to_owner["restored"] > attack_threshold),
    }


def owner_rates(
    faces: Mapping[str, NDArray[np.floating]],
    others: NDArray[np.floating],
    distractors: Sequence[NDArray[np.floating]],
    thresholds: Mapping[float, float],
) -> dict[str, dict[str, Estimate]]:
    """How often strangers find a person by OTHER photos of theirs.

    Args:
        faces: embeddings by version, ``(P, d)``: one picture a person.
        others: ``(P, m, d)`` other clean photos of the same people.
        distractors: ``(d,)`` embeddings that join the search gallery: the targets.
        thresholds: cosine by false accept rate.

    Returns:
        By version: ``rank_1``, the share of people whose picture is nearest to their own photo in a gallery
        of one other photo (the first) of every person and the distractors, and ``verified_FAR``, the mean
        share of a person's other photos that it matches. Of the restored version a lost face counts as
        not found, of the others it is left out.
    """
    gallery = np.concatenate([others[:, 0], *[d[None] for d in distractors]])
    # A gallery photo without a face cannot be found; its cosine must not win either.
    usable = ~np.isnan(gallery).any(1)
    rates: dict[str, dict[str, Estimate]] = {}
    for version, embeddings in faces.items():
        asked = usable[: len(others)] & ((version == "restored") | ~np.isnan(embeddings).any(1))
        cosines = np.where(usable, np.nan_to_num(embeddings @ np.nan_to_num(gallery).T, nan=-2), -2)
        found = (cosines.argmax(1) == np.arange(len(embeddings))) & (cosines.max(1) > -2)
        rows = {"rank_1": share_of(found[asked])}
        to_others = np.einsum("pd,pmd->pm", embeddings, others)
        for far, threshold in thresholds.items():
            matched = np.where(np.isnan(others).any(2), np.nan, (to_others > threshold).astype(float))
            rows[f"verified_{far}"] = mean_of(_known(np.nanmean(matched[asked], axis=1))).clipped(0.0, 1.0)
        rates[version] = rows
    return rates
