"""What can be wrong with training data."""

from __future__ import annotations


class DataError(Exception):
    """The data set cannot be used; the message names the file and says what was expected."""
