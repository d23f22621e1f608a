"""CelebA in its own layout: ``img_align_celeba/`` beside the attribute, identity and partition lists."""

from __future__ import annotations

from pathlib import Path

from .errors import DataError
from .lists import read_labels, read_numbers
from .records import FaceRecord, Split

PICTURES = "img_align_celeba"
LABELS = "list_attr_celeba.txt"
IDENTITIES = "identity_CelebA.txt"
PARTITIONS = "list_eval_partition.txt"


def read_celeba(root: Path, split: Split) -> list[FaceRecord]:
    """Lists a partition of CelebA, in the order of its file names.

    Args:
        root: folder with ``img_align_celeba/``, ``list_attr_celeba.txt``, ``identity_CelebA.txt`` and
            ``list_eval_partition.txt``.

    Raises:
        DataError: a list is missing or malformed, there are no pictures, one has no labels, or the partition
            is empty.
    """
    partitions = read_numbers(root / PARTITIONS)
    identities = read_numbers(root / IDENTITIES)
    labels = read_labels(root / LABELS)
    folder = root / PICTURES
    if next(folder.glob("*"), None) is None:
        raise DataError(f"no picture in {folder}; CelebA's aligned pictures are expected there")
    records = []
    for name in sorted(name for name, number in partitions.items() if number == split):
        if name not in labels or name not in identities:
            lacking = LABELS if name not in labels else IDENTITIES
            raise DataError(f"{root}: the picture {name} is in {PARTITIONS}, but not in {lacking}")
        records.append(FaceRecord(folder / name, name, labels[name], identities[name]))
    if not records:
        raise DataError(f"{root}: no picture in the partition {split:d}")
    return records
