"""Fields of a run configuration, set from the command line."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any, TypeVar

from .shared_config import SharedConfig

Config = TypeVar("Config", bound=SharedConfig)


def override(config: Config, assignments: list[str]) -> Config:
    """Applies ``path.to.field=value`` assignments, e.g. ``attack_settings.injection=0.1``.

    Raises:
        ValueError: an assignment has no ``=``, its field does not exist, or its value has another type.
    """
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator:
            raise ValueError(f"expected FIELD=VALUE, found {assignment!r}")
        config = _replace(config, path.split("."), text, path)
    return config


def _replace(node: Any, path: list[str], text: str, whole: str) -> Any:
    head, *rest = path
    if isinstance(node, dict):
        if head not in node:
            raise ValueError(f"no field {whole!r}; there are: {', '.join(node)}")
        if rest:
            raise ValueError(f"no field {whole!r}; there are: none below {head!r}")
        return {**node, head: _parse(node[head], text, whole)}
    fields = {f.name: f for f in dataclasses.fields(node)} if dataclasses.is_dataclass(node) else {}
    if head not in fields:
        raise ValueError(f"no field {whole!r}; there are: {', '.join(fields) or 'none below it'}")
    current = getattr(node, head)
    if rest:
        value = _replace(current, rest, text, whole)
    elif fields[head].type == "float | None":
        value = None if text.lower() == "none" else _parse(0.0, text, whole)
    else:
        value = _parse(current, text, whole)
    return replace(node, **{head: value})


def _parse(current: Any, text: str, whole: str) -> Any:
    try:
        if isinstance(current, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(current, int | float | str):
            return type(current)(text)
        if isinstance(current, tuple):
            low, high = text.split(",")
            return (float(low), float(high))
    except (KeyError, ValueError):
        pass
    raise ValueError(f"{whole}: expected a value like {current!r}, found {text!r}")
