"""Backends run one network each. Which one is a name; its libraries are imported when it is made."""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import BackendError
from .base import Backend, BackendFactory, Tensors

__all__ = ["BACKENDS", "Backend", "BackendFactory", "Tensors", "create_backend"]

# Name -> (module, class). Each class takes the network's bytes and its own keyword options.
BACKENDS = {"ort": ("ort", "OrtBackend")}


def create_backend(name: str, model: bytes, **options: Any) -> Backend:
    """Loads a network.

    Args:
        name: a key of ``BACKENDS``.
        model: the bytes of the network's file.
        options: the backend's own, such as ``provider`` and ``threads`` of ``ort``.

    Raises:
        BackendError: the name is unknown, or the backend cannot be had or cannot load the network.
    """
    if name not in BACKENDS:
        raise BackendError(f"unknown backend {name!r}; known: {', '.join(sorted(BACKENDS))}")
    module, attribute = BACKENDS[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)(model, **options)
