"""How far a stage has come, its learning rate and weights there: pure functions of the position."""

from __future__ import annotations

import math

from .config import StageConfig

# The share of the learning rate that the cosine ends at.
COSINE_FLOOR = 0.02
# The share of a weight that a ramp begins at.
RAMP_FLOOR = 0.1


def stage_progress(config: StageConfig, *, steps: int, steps_per_epoch: int, seconds: float) -> float:
    """Share of a stage that is over, by its epochs or by its minutes, whichever is more; at 1 it ends."""
    total_steps = config.epochs * steps_per_epoch
    share = steps / total_steps if total_steps else 1.0
    return share if config.minutes is None else max(share, seconds / (60 * config.minutes))


def learning_rate(config: StageConfig, progress: float) -> float:
    """The learning rate at ``progress`` in [0, 1]: constant, or half a cosine down to ``COSINE_FLOOR``."""
    if config.lr_schedule == "constant":
        return config.learning_rate
    cosine = (1 + math.cos(math.pi * min(progress, 1.0))) / 2
    return config.learning_rate * (COSINE_FLOOR + (1 - COSINE_FLOOR) * cosine)


def loss_weights(config: StageConfig, progress: float) -> dict[str, float]:
    """Each loss's weight at ``progress`` in [0, 1], by its ramp from ``RAMP_FLOOR`` of itself up."""
    return {
        name: weight * _ramp(config.ramps[name], progress) if name in config.ramps else weight
        for name, weight in config.weights.items()
    }


def _ramp(share: float, progress: float) -> float:
    return RAMP_FLOOR + (1 - RAMP_FLOOR) * progress / share if progress < share else 1.0
