"""Whom a recogniser takes a picture for, other than the target: the owner."""

from __future__ import annotations

from torch import Tensor


def owner_loss(embedding: Tensor, owner: Tensor, margin: float) -> Tensor:
    """``max(0, cos(FR(x_cov), FR(x_adv)) - margin)``, mean over the batch.

    Not in the paper: moving towards the target alone leaves the owner recognisable.

    Args:
        embedding: ``(N, d)`` unit-norm embeddings of protected faces.
        owner: ``(N, d)`` unit-norm embeddings of the same faces unprotected.
        margin: cosine below which the owner counts as lost.

    Returns:
        A number in [0, 1 - margin]; 0 once every owner is lost.
    """
    return ((embedding * owner).sum(1) - margin).clamp_min(0).mean()


def identity_loss(embedding: Tensor, owner: Tensor) -> Tensor:
    """``1 - cos(FR(x_cov), FR(x_rec))``, mean over the batch.

    Not in the paper, whose restorer learns from pixels alone (Eq. 13): faint traces of the mask cost few
    pixels, and recognisers still see them.

    Args:
        embedding: ``(N, d)`` unit-norm embeddings of restored faces.
        owner: ``(N, d)`` unit-norm embeddings of the same faces as they were.

    Returns:
        A number in [0, 2]; 0 where the owners are wholly themselves again.
    """
    return (1 - (embedding * owner).sum(1)).mean()
