"""A manifest with plain values, for tests that care about one or two of its fields."""

from __future__ import annotations

import dataclasses
from typing import Any

from runtime.manifest import Manifest

PLAIN = Manifest(
    role="public",
    name="tiny",
    image_size=16,
    crop_template=((0.0, 0.0),) * 5,
    attributes=(),
    strength=0.5,
    injection=0.5,
    max_batch=1,
    precision="fp32",
    opset=17,
    target="nobody",
    terms="none",
)


def manifest(**fields: Any) -> Manifest:
    """``PLAIN`` with other fields."""
    return dataclasses.replace(PLAIN, **fields)
