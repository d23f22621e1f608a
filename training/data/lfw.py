"""LFW's verification protocol, View 2: ``pairs.txt`` beside a folder a person."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from .errors import DataError
from .lists import read_rows

PAIRS = "pairs.txt"


class FacePair(NamedTuple):
    """Two pictures and whether they show one person."""

    path_a: Path
    path_b: Path
    same: bool


def read_lfw(root: Path) -> list[list[FacePair]]:
    """The folds of LFW's View 2: ten of 300 pairs of one person, then 300 of two.

    Huang et al., "Labeled Faces in the Wild", 2007, section 4.

    Args:
        root: folder with ``pairs.txt`` and the people's folders, in itself or in one folder below
            (``lfw-deepfunneled/``, ``lfw/``, ...).

    Raises:
        DataError: ``pairs.txt`` is missing or malformed, or names a picture that is not there.
    """
    path = root / PAIRS
    (header, *rows) = read_rows(path) or [[]]
    if len(header) != 2 or not all(word.isdigit() for word in header):
        raise DataError(f"{path}: expected 'folds pairs' in its first line, found {' '.join(header)!r}")
    n_folds, n_pairs = int(header[0]), int(header[1])
    if not rows or len(rows) != n_folds * 2 * n_pairs:
        raise DataError(f"{path}: expected {n_folds} times 2 x {n_pairs} pairs, found {len(rows)}")
    people = _people_folder(root, rows[0][0])
    pairs = [_pair(row, people, path) for row in rows]
    return [pairs[start : start + 2 * n_pairs] for start in range(0, len(pairs), 2 * n_pairs)]


def _people_folder(root: Path, person: str) -> Path:
    folders = (root, *sorted(path for path in root.iterdir() if path.is_dir()))
    found = next((folder for folder in folders if (folder / person).is_dir()), None)
    if found is None:
        raise DataError(f"no folder {person} in {root} or one below it; LFW's pictures are expected there")
    return found


def _pair(row: list[str], people: Path, source: Path) -> FacePair:
    """``person 1 2``, or ``person 1 other 2``."""
    if len(row) not in (3, 4) or not (row[1] + row[-1]).isdigit():
        raise DataError(
            f"{source}: expected 'person number number' or 'person number person number', "
            f"found {' '.join(row)!r}"
        )
    same = len(row) == 3
    return FacePair(_photo(people, *row[:2]), _photo(people, row[0] if same else row[2], row[-1]), same)


def _photo(people: Path, person: str, number: str) -> Path:
    path = people / person / f"{person}_{int(number):04d}.jpg"
    if not path.is_file():
        raise DataError(f"{path} is missing; {PAIRS} names it")
    return path
