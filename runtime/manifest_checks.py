"""What a manifest's fields may hold, as a table: a bundle comes from elsewhere and may be hostile."""

from __future__ import annotations

import re
import reprlib
import sys
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

# What is expected, in words, and whether a value of the parsed JSON is that.
Rule = tuple[str, Callable[[Any], bool]]


def check_manifest(raw: Mapping[str, Any]) -> None:
    """Checks every known field of a parsed manifest. Missing and unknown ones are the dataclasses' concern.

    Raises:
        ValueError: says which field is wrong, what was expected and what was found.
    """
    check_fields(raw, _MANIFEST)
    for name, model in raw.get("models", {}).items():
        where = f"models[{_short(name)}]"
        check_fields({where: model}, {where: _MAPPING})
        check_fields(model, _MODEL, f"{where}.")
        for side in ("inputs", "outputs"):
            for spec in model.get(side, ()):
                check_fields(spec, _TENSOR, f"{where}.{side}.")


def check_fields(raw: Mapping[str, Any], rules: Mapping[str, Rule], prefix: str = "") -> None:
    """Checks the fields that are there against their rules.

    Raises:
        ValueError: says which field is wrong, what was expected and what was found.
    """
    for name, (expected, holds) in rules.items():
        if name in raw and not holds(raw[name]):
            raise ValueError(f"{prefix}{name} must be {expected}, found {_short(raw[name])}")


def _short(value: object) -> str:
    """``repr`` of anything on a line: a hostile value may be long or hold control characters."""
    return reprlib.repr(value)


def whole(low: int, high: int) -> Rule:
    return f"a whole number from {low} to {high}", lambda v: _is_int(v) and low <= v <= high


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """An int or float that is finite as a float; NaN and whole numbers beyond its range are none."""
    return (_is_int(value) or isinstance(value, float)) and abs(value) <= sys.float_info.max


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_list(value: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(holds, value))


def _is_point(value: Any) -> bool:
    return is_list(value, is_number) and len(value) == 2


def _are_names(value: Any) -> bool:
    return is_list(value, lambda v: is_text(v) and v != "") and len(set(value)) == len(value)


def _is_plain_file_name(value: Any) -> bool:
    """A name inside the bundle's folder, on every system."""
    return (
        is_text(value)
        and value not in ("", ".", "..")
        and "\0" not in value
        and PurePosixPath(value).name == PureWindowsPath(value).name == value
    )


_TEXT: Rule = ("text", is_text)
FLAG: Rule = ("true or false", lambda v: isinstance(v, bool))
SHA256: Rule = (
    "64 hex digits in lower case",
    lambda v: is_text(v) and re.fullmatch("[0-9a-f]{64}", v) is not None,
)
_MAPPING: Rule = ("a mapping", lambda v: isinstance(v, dict))
_SHARE: Rule = ("a number from 0 to 1", lambda v: is_number(v) and 0 <= v <= 1)
_TENSORS: Rule = ("a list of mappings", lambda v: is_list(v, lambda spec: isinstance(spec, dict)))

# docs/export.md says what each of them is.
PRECISIONS = ("fp32", "fp16", "fp16-mixed", "bf16-mixed", "int8", "int8-gpu")

_MANIFEST: dict[str, Rule] = {
    "role": ("public or authority", lambda v: v in ("public", "authority")),
    "system": ("mask or anonymiser", lambda v: v in ("mask", "anonymiser")),
    "name": _TEXT,
    "image_size": whole(16, 2048),
    "crop_template": ("5 points of 2 finite numbers", lambda v: is_list(v, _is_point) and len(v) == 5),
    "attributes": ("a list of different names, none empty", _are_names),
    "strength": _SHARE,
    "injection": _SHARE,
    "max_batch": whole(1, 4096),
    "precision": (f"one of {', '.join(PRECISIONS)}", lambda v: is_text(v) and v in PRECISIONS),
    "opset": whole(1, 999),
    "target": _TEXT,
    "terms": _TEXT,
    "demo": FLAG,
    "training": _MAPPING,
    "measured": _MAPPING,
    "models": _MAPPING,
}
_MODEL: dict[str, Rule] = {
    "path": ("a plain file name", _is_plain_file_name),
    "sha256": SHA256,
    "inputs": _TENSORS,
    "outputs": _TENSORS,
    "sealed": FLAG,
}
_TENSOR: dict[str, Rule] = {
    "name": _TEXT,
    "dtype": _TEXT,
    "shape": ("a list of whole numbers from -1", lambda v: is_list(v, lambda n: _is_int(n) and n >= -1)),
}
