"""CelebA in its own layout: ``img_align_celeba/`` beside the attribute, identity and partition lists."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import DataError

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

TRAIN, VALIDATION, TEST = 0, 1, 2


@dataclass(frozen=True)
class FaceRecord:
    """One picture: its file, its attributes in {0, 1} (``ATTRIBUTES``' order) and its person's number."""

    path: Path
    attributes: NDArray[np.uint8]
    identity: int


def _rows(path: Path) -> list[list[str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}; CelebA's own lists are expected there") from error
    return [line.split() for line in lines if line.strip()]


def _numbers(path: Path) -> dict[str, int]:
    numbers = {}
    for row in _rows(path):
        if len(row) != 2 or not row[1].lstrip("-").isdigit():
            raise DataError(f"{path}: expected lines 'picture number', found {' '.join(row)!r}")
        numbers[row[0]] = int(row[1])
    return numbers


def _attributes(path: Path) -> dict[str, NDArray[np.uint8]]:
    rows = _rows(path)
    if len(rows) < 3:
        raise DataError(f"{path}: expected a count, a line of attribute names and a line per picture")
    names = rows[1]
    missing = [name for name in ATTRIBUTES if name not in names]
    if missing:
        raise DataError(f"{path}: the attributes {', '.join(missing)} are missing from its second line")
    columns = [names.index(name) for name in ATTRIBUTES]
    labels = {}
    for row in rows[2:]:
        if len(row) != len(names) + 1:
            raise DataError(f"{path}: expected {len(names)} values for {row[0]}, found {len(row) - 1}")
        labels[row[0]] = np.array([row[1 + column] == "1" for column in columns], dtype=np.uint8)
    return labels


def read_celeba(root: Path, partition: int) -> list[FaceRecord]:
    """Lists a partition of CelebA, in the order of its file names.

    Args:
        root: folder with ``img_align_celeba/``, ``list_attr_celeba.txt``, ``identity_CelebA.txt`` and
            ``list_eval_partition.txt``.
        partition: 0 training, 1 validation, 2 test.

    Raises:
        DataError: a list is missing or malformed, a picture has no labels, or the partition is empty.
    """
    root = Path(root)
    partitions = _numbers(root / "list_eval_partition.txt")
    identities = _numbers(root / "identity_CelebA.txt")
    attributes = _attributes(root / "list_attr_celeba.txt")
    records = []
    for name in sorted(name for name, number in partitions.items() if number == partition):
        if name not in attributes or name not in identities:
            which = "attributes" if name not in attributes else "an identity"
            raise DataError(f"{root}: the picture {name} is in the partition list but has no {which}")
        records.append(FaceRecord(root / "img_align_celeba" / name, attributes[name], identities[name]))
    if not records:
        raise DataError(f"{root}: no picture in partition {partition}")
    return records
