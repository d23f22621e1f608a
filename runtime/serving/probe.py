"""Whether a model answers: a real inference, and what to make of it when none comes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ..errors import ServingError
from ..manifest import ModelFile
from .admin import TritonBusyError, TurnedAwayError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

# How often a busy server's count of answered requests is read.
_LOOK_AGAIN_S = 0.1


class Answering(Protocol):
    """The two calls of ``Admin`` that a probe needs."""

    def infer(
        self, model: str, inputs: Mapping[str, NDArray], *, timeout_s: float, version: str = ""
    ) -> dict[str, NDArray]: ...

    def completed(self, model: str) -> int: ...


def infer_once(
    server: Answering, model: str, entry: ModelFile, *, timeout_s: float, version: str = ""
) -> None:
    """One face of zeros through a model.

    Args:
        server: that has the model.
        model: its name.
        entry: its inputs and outputs.
        timeout_s: for the answer.
        version: of the model, "" for the one that is served.

    Raises:
        TritonBusyError: the server turned it away or took too long.
        ServingError: no answer, or not the one that the manifest promises.
    """
    import numpy as np

    inputs = {spec.name: np.zeros((1, *spec.shape[1:]), spec.dtype) for spec in entry.inputs}
    outputs = server.infer(model, inputs, timeout_s=timeout_s, version=version)
    for spec in entry.outputs:
        expected = (np.dtype(spec.dtype), (1, *spec.shape[1:]))
        values = outputs.get(spec.name)
        found = None if values is None else (values.dtype, values.shape)
        if found != expected:
            raise ServingError(f"expected {expected} as {spec.name!r} of {model}, found {found}")
        if values is not None and not np.isfinite(values).all():
            raise ServingError(f"expected finite numbers as {spec.name!r} of {model}, found NaN or infinity")


def check_well(
    server: Answering,
    model: str,
    entry: ModelFile,
    *,
    timeout_s: float,
    version: str = "",
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Probes a model. One that is too busy for the probe is well as long as it answers others.

    A door's bound is one for all models: where it turns the probe away, an answer of any of them will do.

    Args:
        server, model, entry, version: see ``infer_once``.
        timeout_s: for the answer, and then for one to somebody else.
        clock, sleep: seconds.

    Raises:
        ServingError: what is wrong.
    """

    def answers_others(counted: str, before: int) -> bool:
        until = clock() + timeout_s
        while server.completed(counted) <= before:
            if clock() >= until:
                return False
            sleep(_LOOK_AGAIN_S)
        return True

    before = server.completed(model)
    try:
        infer_once(server, model, entry, timeout_s=timeout_s, version=version)
    except TurnedAwayError:
        if not answers_others("", server.completed("")):  # it has been idle ever since, or hangs
            infer_once(server, model, entry, timeout_s=timeout_s, version=version)
    except TritonBusyError as error:
        if not answers_others(model, before):
            raise ServingError(f"{error}, and no other request was answered in {timeout_s:g} s") from error
