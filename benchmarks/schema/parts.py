"""JSON Schema's pieces that the bodies of all kinds are made of."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
TIME_MS: Schema = {"type": "number", "minimum": 0}
SHA256: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}


def record(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    """An object with these fields; others may join, for results grow."""
    return {
        "type": "object",
        "required": [*required],
        "properties": {**required, **(optional or {})},
    }


def by_name(values: Schema) -> Schema:
    """An object with names of one's own, at least one."""
    return {"type": "object", "minProperties": 1, "additionalProperties": values}


def several(values: Schema, *, least: int = 0) -> Schema:
    """A list."""
    return {"type": "array", "items": values, "minItems": least}


def nullable(values: Schema) -> Schema:
    """Or null, which stands for what was not measured or does not exist."""
    return {"anyOf": [{"type": "null"}, values]}


def _estimate(value: Schema) -> Schema:
    """A value with its 95 % interval and the number of samples; null is what has no samples, or no end."""
    return record(
        {"value": nullable(value), "low": nullable(NUMBER), "high": nullable(NUMBER), "count": COUNT}
    )


ESTIMATE = _estimate(NUMBER)
RATE = _estimate({"type": "number", "minimum": 0, "maximum": 1})

# Times of many calls: median, quartiles, the slow end, and how many.
SPREAD = record(
    {
        "median": TIME_MS,
        "quartiles": {"type": "array", "items": TIME_MS, "minItems": 2, "maxItems": 2},
        "p95": TIME_MS,
        "p99": TIME_MS,
        "calls": {"type": "integer", "minimum": 1},
    }
)

ENVIRONMENT = record(
    {
        "commit": {"type": "string", "pattern": "^[0-9a-f]{40}(-dirty)?$"},
        "processor": TEXT,
        "cores": {"type": "integer", "minimum": 1},
        "python": TEXT,
        "versions": by_name(nullable(TEXT)),
    }
)

BUNDLE = record({"name": TEXT, "precision": TEXT, "sha256": by_name(SHA256)})

# What honest figures show, and what was found that they do not (``benchmarks.efficacy.suspicion``).
PLAUSIBILITY: Schema = {"type": "object", "additionalProperties": nullable(NUMBER)}
SUSPICIONS = several(record({"what": TEXT, "found": TEXT}))

# Names of rates, wherever in a result they stand: never a bare number.
RATE_NAMES = (
    "^(asr|esr|asr_clean|esr_clean|dodging|owner_accepted_restored|rank_1|verified_.+|accuracy|linked)$"
)
RATES_HAVE_INTERVALS: Schema = {
    "$defs": {
        "tree": {
            "patternProperties": {RATE_NAMES: nullable({"anyOf": [RATE, by_name(RATE)]})},
            "additionalProperties": {"$ref": "#/$defs/tree"},
            "items": {"$ref": "#/$defs/tree"},
        }
    },
    "$ref": "#/$defs/tree",
}
