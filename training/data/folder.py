"""Any folder of pictures, FFHQ's among them: no labels, no names of people, a split by hash."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

from .errors import DataError
from .records import FaceRecord, Split

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
VALIDATION_SHARE = 0.05


def read_folder(root: Path, split: Split) -> list[FaceRecord]:
    """Lists the pictures of a folder and of all below it, in the order of their paths.

    A hash of its path below ``root`` puts a picture into training or, one in twenty, validation: adding or
    removing pictures moves no other. Attributes are unknown, and each picture is its own person.

    Raises:
        DataError: there is no picture for the split.
    """
    paths = {
        path.relative_to(root).as_posix(): path
        for path in root.rglob("*")
        if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()
    }
    if not paths:
        raise DataError(f"no picture ({', '.join(sorted(PICTURE_SUFFIXES))}) in {root} or below it")
    records = [
        FaceRecord(paths[name], name, None, number)
        for number, name in enumerate(sorted(paths))
        if split_of(name) == split
    ]
    if not records:
        raise DataError(
            f"{root}: none of its {len(paths)} pictures is for {split.name.lower()}; a folder is split "
            f"{1 - VALIDATION_SHARE:.0%} training, {VALIDATION_SHARE:.0%} validation by a hash of the paths"
        )
    return records


def split_of(name: str) -> Split:
    """Training or validation, by a hash of a picture's path below its folder."""
    share = int.from_bytes(sha256(os.fsencode(name)).digest()[:8], "big") / 2**64
    return Split.VALIDATION if share < VALIDATION_SHARE else Split.TRAIN
