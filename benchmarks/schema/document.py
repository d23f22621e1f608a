"""What makes a file a result: its schema by kind, and the functions that write and read nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from training.evaluation.statistics import plain, write_json

from .bodies import BODIES
from .parts import ENVIRONMENT, RATES_HAVE_INTERVALS, Schema, record

KINDS = tuple(BODIES)
_SHOWN = 120  # characters of a wrong value that a message quotes


class ResultError(ValueError):
    """A result does not have the form of its kind."""


def schema_of(kind: str) -> Schema:
    """The whole JSON Schema (draft 2020-12) of a kind's results."""
    head = record({"benchmark": {"const": kind}, "environment": ENVIRONMENT})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"benchmarks: {kind}",
        **RATES_HAVE_INTERVALS,
        "allOf": [head, BODIES[kind]],
    }


def check(document: Any, name: str) -> None:
    """Checks a document as it stands in a file.

    Args:
        name: what messages call it.

    Raises:
        ResultError: it is of no known kind, or not of its kind's form; the message says where.
    """
    kind = document.get("benchmark") if isinstance(document, Mapping) else None
    if kind not in BODIES:
        raise ResultError(f"{name}: expected a result of {', '.join(KINDS)}, found one of {kind}")
    error = best_match(Draft202012Validator(schema_of(kind)).iter_errors(document))
    if error is not None:
        where = "/".join(map(str, error.absolute_path)) or "the top"
        message = error.message if len(error.message) <= _SHOWN else f"{error.message[:_SHOWN]}..."
        raise ResultError(f"{name}: at {where}: {message}; measure again with this version's command")


def write_result(result: Mapping[str, Any], path: Path) -> None:
    """Writes a result: ``Estimate`` as an object, numbers rounded to five digits, NaN as null.

    Raises:
        ResultError: it does not have the form of its kind. What was measured is kept beside ``path``, as
            ``.invalid.json``.
    """
    document = plain(result)
    try:
        check(document, str(path))
    except ResultError as error:
        kept = path.with_suffix(".invalid.json")
        write_json(document, kept)
        raise ResultError(f"{error}; what was measured is in {kept}") from error
    write_json(document, path)


def read_result(path: Path) -> dict[str, Any]:
    """A result from its file.

    Raises:
        ResultError: it is no JSON, or not of its kind's form.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ResultError(f"{path}: expected JSON, found something else: {error}") from error
    check(document, str(path))
    return dict(document)
