"""The opening paragraph, and where the system wins and loses: sentences computed from the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .claims import FEW, GAINS, LOSSES, OPENING
from .parts import Document, Measured, listed


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a reader sees first.

    Attributes:
        opening: sentences of the headline figures.
        gains, losses: sentences.
        warnings: what to know before believing any of it.
    """

    opening: Sequence[str]
    gains: Sequence[str]
    losses: Sequence[str]
    warnings: Sequence[str]


def summarise(measured: Sequence[Measured]) -> Summary:
    """Of whatever was measured; the first result of a kind speaks for it."""
    first: dict[str, Document] = {}
    for one in measured:
        first.setdefault(one.kind, one.document)

    def said(by_kind: Mapping[str, Callable[[Document], Sequence[str]]]) -> list[str]:
        return [line for kind, say in by_kind.items() if kind in first for line in say(first[kind])]

    return Summary(
        opening=said(OPENING),
        gains=said(GAINS),
        losses=said(LOSSES),
        warnings=[
            *_few(measured),
            *_of_different_bundles(measured),
            *_suspicions(measured),
            *_dirty(measured),
        ],
    )


def _few(measured: Sequence[Measured]) -> list[str]:
    counts = {m.name: m.document.get("people", m.document.get("pictures")) for m in measured}
    names = [name for name, count in counts.items() if isinstance(count, int) and count < FEW]
    if not names:
        return []
    return [
        f"Fewer than {FEW} samples in {listed(names)}: their rates show that the chain works, not how well; "
        "see the intervals."
    ]


def _of_different_bundles(measured: Sequence[Measured]) -> list[str]:
    by_hash: dict[str, list[str]] = {}
    for one in measured:
        bundle = one.document.get("bundle", {})
        if known := bundle.get("sha256", bundle).get("protect"):
            by_hash.setdefault(known, []).append(one.name)
    if len(by_hash) < 2:
        return []
    said = "; ".join(f"{listed(names)}: {known[:12]}" for known, names in by_hash.items())
    return [f"These results are not all of the same network (SHA-256 of protect). {said}."]


def _suspicions(measured: Sequence[Measured]) -> list[str]:
    return [
        f"{one.name}: suspicion of a cheat: {suspicion['found']}"
        for one in measured
        for suspicion in one.document.get("suspicions", [])
    ]


def _dirty(measured: Sequence[Measured]) -> list[str]:
    names = [m.name for m in measured if m.document["environment"]["commit"].endswith("-dirty")]
    return [f"Measured with changes that no commit holds: {listed(names)}."] if names else []
