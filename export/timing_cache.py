"""TensorRT's timing cache: what it measured on one GPU with one version, so that later builds need not."""

from __future__ import annotations

import logging
import os
import re
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import ExportError
from .gpu import Gpu

logger = logging.getLogger(__name__)


def timing_cache_path(folder: Path, gpu: Gpu, version: str) -> Path:
    """The cache's file, such as ``nvidia-h200-sm9.0-tensorrt-10.3.0.timing``: one GPU, one version."""
    name = re.sub("[^a-z0-9]+", "-", gpu.name.lower()).strip("-")
    return folder / f"{name}-sm{gpu.architecture}-tensorrt-{version}.timing"


def attach_timing_cache(config: Any, path: Path) -> None:
    """Gives a ``trt.IBuilderConfig`` the cache in a file, or an empty one.

    A file that cannot be read, is damaged, or was measured elsewhere is ignored with a warning, in some
    cases TensorRT's own: the build only takes longer, and ``save_timing_cache`` replaces the file.

    Raises:
        ExportError: TensorRT takes not even an empty cache.
    """
    try:
        measured = path.read_bytes()
    except FileNotFoundError:
        measured = b""
    except OSError as error:
        logger.warning("the timing cache %s cannot be read and is ignored: %s", path, error.strerror or error)
        measured = b""
    if _attach(config, measured):
        return
    logger.warning("the timing cache %s is damaged or of another GPU or version, and is ignored", path)
    if not _attach(config, b""):
        raise ExportError("TensorRT takes no timing cache, not even an empty one; build without one")


def save_timing_cache(config: Any, path: Path) -> None:
    """Writes what a build measured, whole or not at all; a failure is a warning, for the plan is built."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(bytes(config.get_timing_cache().serialize()))
        os.replace(partial, path)
    except OSError as error:
        logger.warning("the timing cache %s cannot be written: %s", path, error.strerror or error)
        with suppress(OSError):
            partial.unlink()


def _attach(config: Any, measured: bytes) -> bool:
    cache = config.create_timing_cache(measured)
    return cache is not None and config.set_timing_cache(cache, ignore_mismatch=False)
