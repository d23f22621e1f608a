"""Distances between pictures (Eqs. 5, 8, 13). All pictures are ``(N, 3, S, S)`` in [-1, 1].

The Euclidean norms grow with the picture: a root mean square difference d gives ``d * sqrt(3) * S``.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Orthonormal opponent colours, a row each: grey, red against blue, green against both.
_OPPONENT = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]])
_OPPONENT = _OPPONENT / _OPPONENT.norm(dim=1, keepdim=True)


def _norms(difference: Tensor) -> Tensor:
    """Euclidean norm of each picture, ``(N,)``; its gradient at 0 is 0, not NaN."""
    square = difference.flatten(1).square().sum(1)
    return torch.sqrt(square.clamp_min(1e-12))


def reconstruction_loss(reconstructed: Tensor, source: Tensor) -> Tensor:
    """Eq. 5: ``L_rec``, mean absolute difference; in [0, 2], 0 for equal pictures."""
    return (reconstructed - source).abs().mean()


def perturbation_loss(protected: Tensor, edited: Tensor, sigma: float, chroma_weight: float = 1.0) -> Tensor:
    """Eq. 8: ``max(sigma_1, ||x_adv - x_cov^{att_b}||_2)``, mean over the batch.

    Never below ``sigma``; below it the perturbation is free: the gradient is 0.

    Args:
        chroma_weight: factor of the two colour components of the difference; 1 is Eq. 8. People notice a
            coloured stripe on skin sooner than a shade of the same norm.
    """
    difference = protected - edited
    if chroma_weight != 1.0:
        opponent = (
            _OPPONENT.to(difference) * difference.new_tensor([1.0, chroma_weight, chroma_weight])[:, None]
        )
        difference = torch.einsum("oc,nchw->nohw", opponent, difference)
    return _norms(difference).clamp_min(sigma).mean()


def perceptual_loss(distances: Tensor, bound: float) -> Tensor:
    """``max(bound, LPIPS(x_adv, x_cov^{att_b}))``, mean over the batch; Eq. 8's hinge on another distance.

    Not in the paper, which measures LPIPS (Table VI) but does not train for it.

    Args:
        distances: ``(N,)`` LPIPS of each face.
        bound: below it the gradient is 0.
    """
    return distances.clamp_min(bound).mean()


def erasure_loss(restored: Tensor, source: Tensor) -> Tensor:
    """Eq. 13: ``||x_rec - x_cov||_2``, mean over the batch (the paper sums over the data set); >= 0."""
    return _norms(restored - source).mean()
