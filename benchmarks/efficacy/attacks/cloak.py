"""A cloak in the manner of Fawkes: the target's features, at most a given structural dissimilarity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Attack, to_crops, to_faces
from .surrogates import Surrogates

SSIM_WINDOW = 11
HALVINGS = 10


def dssim(faces: Tensor, reference: Tensor) -> Tensor:
    """``(1 - SSIM) / 2`` of each pair, ``(N,)`` in [0, 1]; Gaussian windows of 11 pixels, deviation 1.5."""
    from kornia.metrics import ssim

    return (1 - ssim(faces, reference, SSIM_WINDOW, padding="valid").flatten(1).mean(1)) / 2


@dataclass(frozen=True, kw_only=True)
class Cloak(Attack):
    """Shan et al., "Fawkes: Protecting Privacy against Unauthorized Deep Learning Models", USENIX 2020.

    Its objective with the penalty of its code: distance of the features to the target's, plus
    ``penalty * max(DSSIM - bound, 0)^2``. Of all steps the nearest within the bound counts; where
    rounding to uint8 takes it over the bound, it is scaled back.

    Args:
        surrogates: feature extractors.
        bound: of DSSIM, on the uint8 crop.
        steps: of Adam.
        learning_rate: of faces in [0, 1].
        penalty: weight of what exceeds the bound.
    """

    surrogates: Surrogates
    bound: float = 0.007
    steps: int = 60
    learning_rate: float = 0.001
    penalty: float = 1e6

    def perturb(self, faces: Tensor) -> Tensor:
        """See ``Attack.perturb``."""
        change = torch.zeros_like(faces, requires_grad=True)
        optimizer = torch.optim.Adam([change], lr=self.learning_rate)
        best, least = torch.zeros_like(faces), torch.full((len(faces),), torch.inf)
        for _ in range(self.steps + 1):
            cloaked = (faces + change).clamp(0, 1)
            distance = self.distance(cloaked)
            dissimilarity = dssim(cloaked, faces)
            better = (distance < least) & (dissimilarity <= self.bound)
            least = torch.where(better, distance, least).detach()
            best = torch.where(better[:, None, None, None], change, best).detach()
            excess = (dissimilarity - self.bound).clamp_min(0)
            optimizer.zero_grad()
            (distance + self.penalty * excess.square()).sum().backward()
            optimizer.step()
        return scaled_back(faces, best, self.bound)

    def distance(self, faces: Tensor) -> Tensor:
        """``(N,)``: Euclidean distances of the unit-norm features to the target's, over the recognisers."""
        pairs = zip(self.surrogates.embeddings(faces), self.surrogates.target_embeddings, strict=True)
        return torch.stack([(embedding - target).norm(dim=1) for embedding, target in pairs]).sum(0)


@torch.no_grad()
def scaled_back(faces: Tensor, change: Tensor, bound: float) -> Tensor:
    """Faces with as much of the change, up to all of it, as stays within the bound once rounded to uint8."""

    def with_share(share: Tensor) -> Tensor:
        return (faces + share[:, None, None, None] * change).clamp(0, 1)

    def allowed(share: Tensor) -> Tensor:
        return dssim(to_faces(to_crops(with_share(share))), faces) <= bound

    low, high = torch.zeros(len(faces)), torch.ones(len(faces))
    low = torch.where(allowed(high), high, low)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        fits = allowed(middle)
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return with_share(low)
