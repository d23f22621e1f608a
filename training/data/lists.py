"""The text lists that data sets come with: rows of words, numbers by picture, attributes by picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import DataError
from .records import ATTRIBUTES


def read_rows(path: Path) -> list[list[str]]:
    """The words of every line that has any.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}; the data set's own list is expected there") from error
    return [line.split() for line in lines if line.strip()]


def read_numbers(path: Path) -> dict[str, int]:
    """Lines ``picture number``: identities, partitions.

    Raises:
        DataError: the file cannot be read or is malformed.
    """
    numbers = {}
    for row in read_rows(path):
        if len(row) != 2 or not row[1].lstrip("-").isdigit():
            raise DataError(f"{path}: expected lines 'picture number', found {' '.join(row)!r}")
        numbers[row[0]] = int(row[1])
    return numbers


def read_labels(path: Path) -> dict[str, NDArray[np.uint8]]:
    """``ATTRIBUTES`` in {0, 1} by picture: a count, a line of names, and lines ``picture -1 1 ...``.

    Raises:
        DataError: the file cannot be read or is malformed, or does not know all of ``ATTRIBUTES``.
    """
    rows = read_rows(path)
    if len(rows) < 3:
        raise DataError(f"{path}: expected a count, a line of attribute names and a line per picture")
    names = rows[1]
    missing = [name for name in ATTRIBUTES if name not in names]
    if missing:
        raise DataError(f"{path}: the attributes {', '.join(missing)} are missing from its second line")
    columns = [names.index(name) for name in ATTRIBUTES]
    labels = {}
    for picture, *values in rows[2:]:
        if len(values) != len(names):
            raise DataError(f"{path}: expected {len(names)} values for {picture}, found {len(values)}")
        strange = set(values) - {"-1", "1"}
        if strange:
            raise DataError(f"{path}: expected -1 or 1 for {picture}, found {min(strange)!r}")
        labels[picture] = np.array([values[column] == "1" for column in columns], dtype=np.uint8)
    return labels
