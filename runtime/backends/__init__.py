"""Backends run one network each. Which one is a name; its libraries are imported when it is made."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any

from ..errors import BackendError
from .base import Backend, BackendFactory, Remote, Tensors

__all__ = [
    "AUTO",
    "BACKENDS",
    "DEFAULT_BACKEND",
    "FULL_PRECISION",
    "TENSORRT",
    "TRITON",
    "Backend",
    "BackendFactory",
    "Remote",
    "Tensors",
    "check_full_precision",
    "create_backend",
    "with_plans",
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
# Those that compute in float32 throughout; ``auto`` may choose others.
FULL_PRECISION = ("ort-cpu", "openvino-fp32")

# ``auto`` takes the first of these that works; docs/export.md has the times behind the order on a CPU. Not
# ``ort-tensorrt``, which builds engines for minutes before the first face.
AUTO = "auto"
AUTO_ORDER = ("ort-cuda", "openvino-bf16", "openvino-fp32", "ort-cpu")

# A plan takes the place of a network's bytes, so the backend needs a folder of them; see ``with_plans``.
TENSORRT = "tensorrt"

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
    if name == TENSORRT:
        raise BackendError("TensorRT runs plans, which lie in a folder; give with_plans(...) as the backend")
    if name not in BACKENDS:
        raise BackendError(f"unknown backend {name!r}; known: {', '.join([AUTO, *BACKENDS])}")
    module, attribute, options = BACKENDS[name]
    backend = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    return backend(model, threads=threads, **options)


def check_full_precision(name: str) -> None:
    """Refuses a backend for a network that must be computed in float32, as the anonymiser's steps must.

    Raises:
        BackendError: it may compute in less.
    """
    if name not in FULL_PRECISION:
        raise BackendError(
            f"expected a backend that the network was compared in, {' or '.join(FULL_PRECISION)}, found "
            f"{name}; less than float32 moves the anonymiser's steps, and it paints other faces"
        )


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


def with_plans(
    name: str, folder: Path, *, threads: int | None = None, allow_host_code: bool = False
) -> BackendFactory:
    """Runs networks from their TensorRT plans, ``protect`` from ``folder/protect.plan``.

    Args:
        name: ``tensorrt``, or ``auto`` for another backend where the plan does not fit or cannot run.
        folder: of plans, as ``export.repository --tensorrt`` writes it.
        threads: CPU threads of the other backend.
        allow_host_code: load version-compatible plans, see ``tensorrt.TensorRtBackend``.

    Returns:
        What a pipeline takes as its ``backend``. It raises ``BundleError`` if a file is missing or
        malformed, with either name, and ``BackendError`` like ``tensorrt.TensorRtBackend``.

    Raises:
        BackendError: another name.
    """
    if name not in (TENSORRT, AUTO):
        raise BackendError(f"plans run on the backend {TENSORRT} or {AUTO}, found {name!r}")
    from .tensorrt import plans_in

    plans = plans_in(folder, allow_host_code=allow_host_code)
    if name == TENSORRT:
        return plans

    def plan_or_other(network: str, model: bytes) -> Backend:
        try:
            return plans(network, model)
        except BackendError as error:
            logger.info("not %s: %s", TENSORRT, error)
            return create_backend(AUTO, model, threads=threads)

    return plan_or_other
