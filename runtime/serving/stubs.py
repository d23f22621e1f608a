"""Whether the models' processes still live: Triton goes on calling a model ready whose process is gone."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, Protocol

from ..errors import ServingError

logger = logging.getLogger(__name__)


class Stub(NamedTuple):
    """What one of Triton's child processes runs."""

    model: str
    version: str


class Stubs(Protocol):
    """What is needed of ``ServerProcess``."""

    def stubs(self) -> Mapping[int, Stub]: ...

    def lives(self, stub: int) -> bool: ...


class StubWatch:
    """Compares how many processes each model has with how many it was started with.

    The version before an update has processes, too, until its requests are answered: they count for nothing.

    Args:
        process: Triton.
        versions: those that are served, by model.
    """

    def __init__(self, process: Stubs, versions: Callable[[], Mapping[str, int]]) -> None:
        self._process, self._versions = process, versions
        self._expected: dict[str, int] = {}
        self._known: Collection[int] = ()
        self._stale = True
        self._blind = False

    def expect(self, models: Collection[str]) -> None:
        """Takes what runs of models that have just been loaded for what has to.

        None is none: other backends of Triton than the wheel's have no such processes.
        """
        found = self._served()
        if found is not None:
            self._expected |= {model: Counter(found.values())[model] for model in models}
        self._stale = True

    def look_anew(self) -> None:
        """Has them counted at the next question, as after anything that may have changed them."""
        self._stale = True

    def dead(self) -> set[str]:
        """The models that lack a process. Cheap as long as none of those known has ended."""
        if not self._stale and all(map(self._process.lives, self._known)):
            return set()
        found = self._served()
        if found is None:
            return set()
        self._known, self._stale = found.keys(), False
        count = Counter(found.values())
        return {model for model, number in self._expected.items() if count[model] < number}

    def _served(self) -> dict[int, str] | None:
        """Models by the processes of their served versions, None if nobody can tell."""
        versions = {Stub(model, str(version)) for model, version in self._versions().items()}
        try:
            found = self._process.stubs()
        except ServingError as error:
            if not self._blind:
                logger.warning("%s", error)
            self._blind = True
            return None
        self._blind = False
        return {pid: stub.model for pid, stub in found.items() if stub in versions}
