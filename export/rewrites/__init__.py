"""Rewrites of a trained network that change its cost and not its function; each is proved in float64."""

from .branches import BatchedBranches, JoinedEncoders
from .early_mix import EarlyMix
from .fold import fold_batch_norms
from .subpixel import SubpixelUp, to_subpixel

__all__ = [
    "BatchedBranches",
    "EarlyMix",
    "JoinedEncoders",
    "SubpixelUp",
    "fold_batch_norms",
    "to_subpixel",
]
