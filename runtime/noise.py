"""Noise that nobody can draw again: from the operating system's generator, for one use."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

# From a shape to numbers of mean 0 and variance 1, new in every call.
Normal = Callable[[tuple[int, ...]], NDArray[np.float32]]

_SEED_BITS = 256


def fresh_normal(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Independent normal numbers of mean 0 and variance 1, float32.

    Every call seeds a generator of its own with 256 bits from the operating system and forgets it. NumPy's
    generators are not cryptographic: who saw the numbers themselves could go on with them, so they are not to
    be kept or sent beyond the network that they are for, which a server of one's own may run.
    """
    return np.random.default_rng(secrets.randbits(_SEED_BITS)).standard_normal(shape, dtype=np.float32)
