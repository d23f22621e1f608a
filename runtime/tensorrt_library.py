"""TensorRT's Python modules: found by name, and their log led into Python's."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType
from typing import Any, Protocol

from .engine_sidecar import FLAVOURS
from .errors import BackendError, MissingExtraError

logger = logging.getLogger(__name__)

# Which extra installs a flavour: tensorrt_rtx builds plans without a GPU, which is what the tests need.
_EXTRAS = dict(zip(FLAVOURS, ("gpu", "dev"), strict=True))


class LibraryLog(Protocol):
    """A ``trt.ILogger`` that passes everything on to ``logging``."""

    def listening(self) -> AbstractContextManager[list[str]]:
        """Gathers the errors that the library logs meanwhile, in any thread, oldest first."""
        ...


def load_tensorrt(flavour: str) -> ModuleType:
    """The module ``tensorrt`` or ``tensorrt_rtx``. They have the same interface and different plans.

    Raises:
        MissingExtraError: it is not installed; says which extra installs it.
        BackendError: the flavour is unknown, or it is installed without its libraries.
    """
    if flavour not in FLAVOURS:
        raise BackendError(f"unknown flavour of TensorRT {flavour!r}; known: {', '.join(FLAVOURS)}")
    try:
        return importlib.import_module(flavour)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or flavour, _EXTRAS[flavour]) from error
    except (ImportError, OSError) as error:
        raise BackendError(
            f"the Python package {flavour!r} is installed, but its libraries cannot be loaded: {error}; "
            f"run in the checkout: pip install --force-reinstall '.[{_EXTRAS[flavour]}]'"
        ) from error


@functools.cache
def library_log(trt: ModuleType) -> LibraryLog:
    """The one log of a library.

    TensorRT keeps the first logger of a process whatever is passed later, so there is never a second.
    """
    severity = trt.ILogger
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.INFO,
        severity.VERBOSE: logging.DEBUG,
    }

    class Log(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # the bindings demand it by name
            self._listeners: dict[int, list[str]] = {}

        def log(self, severity: Any, msg: str) -> None:
            level = levels[severity]
            logger.log(level, "%s: %s", trt.__name__, msg)
            if level >= logging.ERROR:
                for errors in list(self._listeners.values()):
                    errors.append(msg)

        @contextmanager
        def listening(self) -> Iterator[list[str]]:
            errors: list[str] = []
            self._listeners[id(errors)] = errors
            try:
                yield errors
            finally:
                del self._listeners[id(errors)]

    return Log()


def in_words(errors: list[str]) -> str:
    """What a library logged, in one sentence of a message."""
    return "; ".join(dict.fromkeys(errors)) or "it logged no reason"
