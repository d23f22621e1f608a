"""Packages that only one source needs, imported when it is used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..card import RecognizerCard, SurrogateError


def require(package: str, card: RecognizerCard, install: str) -> Any:
    """Imports a package that a card's source needs.

    Args:
        install: what to give to pip where it is missing.

    Raises:
        SurrogateError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise SurrogateError(
            f"{card.name}: recognisers from {card.source} need the package {package} ({error}); "
            f"run: pip install '{install}'"
        ) from error
