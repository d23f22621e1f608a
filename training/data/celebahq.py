"""CelebA-HQ in CelebAMask-HQ's layout: ``CelebA-HQ-img/NUMBER.jpg`` beside the attribute list."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from .celeba import PARTITIONS
from .errors import DataError
from .lists import read_labels, read_numbers, read_rows
from .records import FaceRecord, Split

logger = logging.getLogger(__name__)

PICTURES = "CelebA-HQ-img"
LABELS = "CelebAMask-HQ-attribute-anno.txt"
MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"

# Without CelebA's partition: of every twenty numbers the last two.
_HELD_OUT = {18: Split.VALIDATION, 19: Split.TEST}


def read_celebahq(root: Path, split: Split) -> list[FaceRecord]:
    """Lists a split of CelebA-HQ, in the order of its numbers; each picture is its own person.

    Every picture is a CelebA picture. With ``CelebA-HQ-to-CelebA-mapping.txt`` and CelebA's
    ``list_eval_partition.txt`` in the folder, each is in the partition its original is in. Otherwise
    numbers that leave 18 on division by 20 validate, those that leave 19 test, and the others train.

    Args:
        root: folder with ``CelebA-HQ-img/`` and ``CelebAMask-HQ-attribute-anno.txt``.

    Raises:
        DataError: a list is missing or malformed, a picture has no labels or no partition, or the split is
            empty.
    """
    labels = read_labels(root / LABELS)
    split_of = _split_by_original(root) or _split_by_number
    folder = root / PICTURES
    paths = sorted(folder.glob("*.jpg"), key=lambda path: (len(path.stem), path.stem))
    if not paths:
        raise DataError(f"no picture NUMBER.jpg in {folder}")
    records = []
    for path in paths:
        if path.name not in labels or not path.stem.isdigit():
            raise DataError(f"{path} has no labels: expected NUMBER.jpg with a line in {LABELS}")
        number = int(path.stem)
        if split_of(number) == split:
            records.append(FaceRecord(path, path.name, labels[path.name], number))
    if len(paths) < len(labels):
        logger.warning("%s: %d of %d labelled pictures are there", folder, len(paths), len(labels))
    if not records:
        raise DataError(f"{root}: no picture for {split.name.lower()} among {len(paths)}")
    return records


def _split_by_number(number: int) -> int:
    return _HELD_OUT.get(number % 20, Split.TRAIN)


def _split_by_original(root: Path) -> Callable[[int], int] | None:
    """CelebA's partition of a picture's original; None without the two lists that tell it."""
    mapping, partition = root / MAPPING, root / PARTITIONS
    if not (mapping.exists() and partition.exists()):
        logger.warning("%s: without %s and %s, it is split by number", root, MAPPING, PARTITIONS)
        return None
    originals = _originals(mapping)
    partitions = read_numbers(partition)

    def split_of(number: int) -> int:
        original = originals.get(number)
        if original not in partitions:
            lacking = f"{partition}, as {original}" if original else mapping
            raise DataError(f"{root / PICTURES / f'{number}.jpg'} is not in {lacking}")
        return partitions[original]

    return split_of


def _originals(path: Path) -> dict[int, str]:
    """Lines ``idx orig_idx orig_file`` under a header."""
    originals = {}
    for row in read_rows(path)[1:]:
        if len(row) != 3 or not row[0].isdigit():
            raise DataError(f"{path}: expected lines 'idx orig_idx orig_file', found {' '.join(row)!r}")
        originals[int(row[0])] = row[2]
    return originals
