"""Fréchet inception distance (Heusel et al., 2017) of two sets of pictures, by torch-fidelity."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

NOT_MEASURED = "not measured: no Inception weights (--inception)"
FILE = "weights-inception-2015-12-05-6726825d.pth"
SOURCE = "https://github.com/toshas/torch-fidelity/releases/tag/v0.2.0"
LAYER = "2048"
BATCH = 32


class FrechetError(ValueError):
    """FID cannot be measured with what there is."""


class Inception:
    """The network whose features every published FID compares: Inception v3 of 2015, frozen.

    torchvision's Inception v3 has other weights and other pooling: its distances are not comparable.

    Args:
        weights: torch-fidelity's ``FILE``. Nothing is downloaded.
        layer: ``2048`` is the one of FID.

    Raises:
        FrechetError: there is no such file, it holds other weights, or torch-fidelity is missing.
    """

    def __init__(self, weights: Path, *, layer: str = LAYER) -> None:
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise FrechetError("FID needs torch-fidelity; run: pip install 'erasablemask[train]'") from error
        try:
            torch.load(weights, map_location="cpu", weights_only=True)  # the package unpickles anything
            self._network = FeatureExtractorInceptionV3("inception-v3-compat", [layer], str(weights))
        except (OSError, RuntimeError, EOFError, TypeError, pickle.UnpicklingError) as error:
            found = str(error).partition("\n")[0]
            raise FrechetError(
                f"{weights}: expected torch-fidelity's {FILE}, from {SOURCE}; found: {found}"
            ) from error

    @torch.no_grad()
    def __call__(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features ``(N, d)`` of pictures ``(N, H, W, 3)`` RGB, resized to 299x299 as TensorFlow 1 did."""
        features = [
            self._network(torch.from_numpy(np.array(pictures[start : start + BATCH])).permute(0, 3, 1, 2))[0]
            for start in range(0, len(pictures), BATCH)
        ]
        return torch.cat(features).numpy()


def frechet_distance(source: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2)`` of the means and covariances of two sets of features.

    0 for equal sets. The fewer pictures, the larger it is: compare distances of equally many alone.

    Args:
        source, other: ``(N, d)`` and ``(M, d)`` features.

    Raises:
        ValueError: one of them has fewer than two rows.
    """
    from torch_fidelity.metric_fid import (
        KEY_METRIC_FID,
        fid_features_to_statistics,
        fid_statistics_to_metric,
    )

    if min(len(source), len(other)) < 2:
        raise ValueError(
            f"FID expects at least 2 pictures of each kind, found {len(source)} and {len(other)}"
        )
    first, second = (
        fid_features_to_statistics(torch.from_numpy(np.asarray(features, dtype=np.float64)))
        for features in (source, other)
    )
    return float(fid_statistics_to_metric(first, second, verbose=False)[KEY_METRIC_FID])


def frechet_distances(
    features: Mapping[str, NDArray[np.floating]] | None, pairs: Mapping[str, tuple[str, str]]
) -> dict[str, float] | str:
    """FID of each pair of versions, or that it was not measured.

    Args:
        features: by version of the pictures; None where there is no network.
        pairs: titles of pairs of versions.
    """
    if features is None:
        return NOT_MEASURED
    return {title: frechet_distance(features[a], features[b]) for title, (a, b) in pairs.items()}
