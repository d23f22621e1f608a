"""What a user may set when protecting, checked against a bundle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import ErasableMaskError
from .manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Knobs:
    """Complete and valid settings.

    Attributes:
        attributes: edits, 0 or 1 by name; what is not named stays the face's own.
        strength: share of the perturbation (Eq. 6, ``1 - beta``), in (0, 1].
        injection: weight of the clean branch (gamma), in [0, 1).
    """

    attributes: Mapping[str, int]
    strength: float
    injection: float


def resolve_knobs(
    manifest: Manifest,
    *,
    attributes: Mapping[str, int] | None = None,
    strength: float | None = None,
    injection: float | None = None,
) -> Knobs:
    """Checks settings and fills in the bundle's defaults for ``None``.

    Raises:
        ErasableMaskError: a share is not in [0, 1], nothing would be protected (no strength, or nothing but
            the clean branch), or an attribute is unknown or neither 0 nor 1.
    """
    edits = dict(attributes or {})
    if unknown := sorted(set(edits) - set(manifest.attributes)):
        known = ", ".join(manifest.attributes)
        raise ErasableMaskError(f"unknown attribute {', '.join(unknown)}; this bundle knows: {known}")
    for name, value in edits.items():
        if value not in (0, 1):
            raise ErasableMaskError(f"the attribute {name} must be 0 or 1, found {value!r}")
    strength = share("strength", manifest.strength if strength is None else strength)
    injection = share("injection", manifest.injection if injection is None else injection)
    if strength == 0 or injection == 1:
        raise ErasableMaskError(
            f"nothing would be protected with strength {strength:g} and injection {injection:g}; "
            "set a strength above 0 and an injection below 1"
        )
    return Knobs(attributes=edits, strength=strength, injection=injection)


def share(name: str, value: float) -> float:
    """A knob's value, checked.

    Raises:
        ErasableMaskError: it is not in [0, 1].
    """
    if not (math.isfinite(value) and 0.0 <= value <= 1.0):
        raise ErasableMaskError(f"{name} must be a number from 0 to 1, found {value}")
    return float(value)
