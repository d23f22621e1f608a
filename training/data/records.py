"""One picture of a data set, whatever its layout."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# The 13 attributes AttGAN edits, in its order (He et al., 2019, section V).
ATTRIBUTES = (
    "Bald",
    "Bangs",
    "Black_Hair",
    "Blond_Hair",
    "Brown_Hair",
    "Bushy_Eyebrows",
    "Eyeglasses",
    "Male",
    "Mouth_Slightly_Open",
    "Mustache",
    "No_Beard",
    "Pale_Skin",
    "Young",
)


class Split(IntEnum):
    """What a picture is for, by CelebA's numbers."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2


@dataclass(frozen=True)
class FaceRecord:
    """One picture of a data set.

    Attributes:
        path: the file.
        name: tells it from every other picture of the data set, wherever that lies.
        attributes: ``(n,)`` in {0, 1}, in the order of ``ATTRIBUTES``; None where they must be predicted.
        identity: the person's number; the picture's own where nobody knows the person.
    """

    path: Path
    name: str
    attributes: NDArray[np.uint8] | None
    identity: int
