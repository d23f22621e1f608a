"""Rows of faces to look at: figures alone do not say whether a reconstruction shows the person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from runtime.errors import NoFaceError
from runtime.pictures import read_picture

from .published import Pixels
from .recognition import find_main_face
from .reconstructors import Reconstructor, attack
from .releases import Releaser


def contact_sheet(
    pictures: Sequence[Path],
    releaser: Releaser,
    attackers: Mapping[str, Reconstructor],
    *,
    strength: float,
) -> Pixels:
    """A row a picture: its face, two releases where there are two, and what every attacker makes of them.

    Raises:
        NoFaceError: a picture shows none.
    """
    rows = []
    with releaser:
        for number, path in enumerate(pictures):
            clean = read_picture(path).pixels
            face = find_main_face(clean, releaser.detector)
            if face is None:
                raise NoFaceError(f"no face was found in {path}")
            found = attack(clean, face.landmarks, attackers, releaser, strength=strength, picture=number)
            rows.append(np.hstack([found.source, *found.releases[:2], *found.reconstructed.values()]))
    return np.vstack(rows)
