"""Backends run one network each. Which one is a name; its libraries are imported when it is made."""

from __future__ import annotations

import importlib
import logging
from typing import Any

from ..errors import BackendError
from .base import Backend, BackendFactory, Remote, Tensors

__all__ = [
    "AUTO",
    "BACKENDS",
    "DEFAULT_BACKEND",
    "TRITON",
    "Backend",
    "BackendFactory",
    "Remote",
    "Tensors",
    "create_backend",
]

# Name -> module, class, and its options. Each class takes the network's bytes.
BACKENDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ort-cpu": ("ort", "OrtBackend", {"provider": "cpu"}),
    "ort-cuda": ("ort", "OrtBackend", {"provider": "cuda"}),
    "ort-tensorrt": ("ort", "OrtBackend", {"provider": "tensorrt"}),
    "openvino-fp32": ("openvino", "OpenVinoBackend", {"precision": "fp32"}),
    "openvino-bf16": ("openvino", "OpenVinoBackend", {"precision": "bf16"}),
}
DEFAULT_BACKEND = "ort-cpu"

# ``auto`` takes the first of these that works; docs/export.md has the times behind the order. Not
# ``ort-tensorrt``, which builds engines for minutes before the first face.
AUTO = "auto"
AUTO_ORDER = ("ort-cuda", "openvino-bf16", "openvino-fp32", "ort-cpu")

# A server runs the networks instead, so it takes no bytes; see ``triton.TritonServer``. Never of ``auto``,
# which must not send faces anywhere.
TRITON = "triton"

logger = logging.getLogger(__name__)


def create_backend(name: str, model: bytes, *, threads: int | None = None) -> Backend:
    """Loads a network.

    Args:
        name: a key of ``BACKENDS``, or ``auto`` for the fastest that works here; its ``name`` says which.
        model: the bytes of the network's file.
        threads: CPU threads inside one operation, ``None`` for the backend's own choice.

    Raises:
        BackendError: the name is unknown, or the backend cannot be had or cannot load the network.
    """
    if name == AUTO:
        return _first_that_works(model, threads)
    if name == TRITON:
        raise BackendError("a Triton server needs an address; give a TritonServer as the backend")
    if name not in BACKENDS:
        raise BackendError(f"unknown backend {name!r}; known: {', '.join([AUTO, *BACKENDS])}")
    module, attribute, options = BACKENDS[name]
    backend = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    return backend(model, threads=threads, **options)


def _first_that_works(model: bytes, threads: int | None) -> Backend:
    *preferred, last = AUTO_ORDER
    for name in preferred:
        try:
            backend = create_backend(name, model, threads=threads)
        except BackendError as error:
            logger.info("not %s: %s", name, error)
        else:
            logger.info("chose %s", name)
            return backend
    return create_backend(last, model, threads=threads)
