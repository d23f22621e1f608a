"""What a report is made of, and how its numbers are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Document = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text.

    Attributes:
        caption: what it shows, in a sentence.
        words: so many of its first columns hold words, the others numbers.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A plot.

    Attributes:
        name: of its file, and of nothing else in the report.
        svg: an ``<svg>`` element that takes the page's colours.
        caption: what it shows, in a sentence.
    """

    name: str
    svg: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One cell of the gallery.

    Attributes:
        name: of its file.
        jpeg: its bytes.
        label: what stands under it.
    """

    name: str
    jpeg: bytes
    label: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """One measurement, or the gallery.

    Attributes:
        anchor: its address in the page.
        source: the result's file name; empty for the gallery.
        text: paragraphs.
        gallery: rows of pictures.
    """

    anchor: str
    title: str
    source: str = ""
    text: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    gallery: Sequence[Sequence[Picture]] = field(default=())


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A result and the name of its file."""

    name: str
    document: Document

    @property
    def kind(self) -> str:
        """Which benchmark made it."""
        return str(self.document["benchmark"])


def listed(words: Sequence[str]) -> str:
    """``a, b and c``."""
    *before, last = words
    return f"{', '.join(before)} and {last}" if before else last


def ranged(shares: Sequence[float]) -> str:
    """``84 to 95 %``, or ``84 %`` where the ends are alike."""
    low, high = (f"{100 * end:.0f}" for end in (min(shares), max(shares)))
    return f"{low} %" if low == high else f"{low} to {high} %"


def judges(rows: Mapping[str, Document]) -> tuple[str, dict[str, Document]]:
    """The recognisers that count: the black-box ones, or the white-box ones where there are no others.

    Returns:
        Their role, and their rows.
    """
    black = {name: row for name, row in rows.items() if row["role"] == "black-box"}
    return ("black-box", black) if black else ("white-box", dict(rows))


def roles(rows: Mapping[str, Document]) -> str:
    """Which recognisers are white-box and which black-box, in a few words."""
    named: dict[str, list[str]] = {}
    for name, row in rows.items():
        named.setdefault(row["role"], []).append(name)
    return "; ".join(f"{role}: {', '.join(names)}" for role, names in named.items())
