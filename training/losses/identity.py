"""Whom a recogniser takes a picture for: the owner, the target, or somebody else."""

from __future__ import annotations

import torch
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

    The anonymiser's losses ``identity`` and ``pair`` are the same formula, for a face that was anonymised, or
    twice.

    Args:
        embedding: ``(N, d)`` unit-norm embeddings of restored faces.
        owner: ``(N, d)`` unit-norm embeddings of the same faces as they were.

    Returns:
        A number in [0, 2]; 0 where the owners are wholly themselves again.
    """
    return (1 - (embedding * owner).sum(1)).mean()


def release_loss(embedding: Tensor, target: Tensor, margin: float) -> Tensor:
    """``max(0, cos(FR(x_target), FR(x_rec)) - margin)``, mean over the batch.

    Not in the paper: ESR (Eq. 18) asks that a restored face is not taken for the target. Some owners look a
    little like the target by themselves, and what is left of the mask makes more of them do so.

    Args:
        embedding: ``(N, d)`` unit-norm embeddings of restored faces.
        target: ``(d,)`` unit-norm embedding of the target.
        margin: cosine below which the target has let go of a face.

    Returns:
        A number in [0, 1 - margin]; 0 once the target has let go of every face.
    """
    # Not a matrix product: autocast would take it in bfloat16, whose cosines have steps of 0.004.
    return ((embedding * target).sum(1) - margin).clamp_min(0).mean()


def stranger_loss(embedding: Tensor, owners: Tensor, margin: float) -> Tensor:
    """``max(0, margin + cos(FR(A(x)), FR(y)) - cos(FR(A(x)), FR(x)))``, mean over all pairs of other faces.

    Args:
        embedding: ``(N, d)`` unit-norm embeddings of anonymised faces, N >= 2.
        owners: ``(N, d)`` unit-norm embeddings of the same faces as they were. All are taken for different
            people: two photos of one person in a batch are counted wrongly.
        margin: by how much closer the owner must be than anybody else.

    Returns:
        A number in [0, 2 + margin]; 0 once every owner is ahead of all others by the margin.
    """
    # Not a matrix product, see release_loss.
    cosines = (embedding[:, None] * owners[None]).sum(2)
    ahead = cosines.diagonal()[:, None] - cosines
    n = len(cosines)
    others = ~torch.eye(n, dtype=torch.bool, device=cosines.device)
    return (margin - ahead).clamp_min(0)[others].mean()
