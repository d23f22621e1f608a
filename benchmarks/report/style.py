"""How plots look: SVG that takes the colours of the page around it, light or dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

from .parts import Figure

# Stand-ins while drawing; in the SVG they become the page's own colours, or these where there is no page.
_INK, _GRID, _PAPER = "#010203", "#040506", "#070809"
_OF_THE_PAGE = {
    _INK: "var(--ink, #1d2733)",
    _GRID: "var(--line, #d5dbe3)",
    _PAPER: "var(--paper, #ffffff)",
}
INK = _INK

# Told apart on light and dark paper, and by people who see fewer colours (Okabe and Ito, 2008, mid tones).
BLUE, ORANGE, GREEN, PINK, SKY, GREY, YELLOW = PALETTE = (
    "#2f7fc1",
    "#e07b26",
    "#2aa07a",
    "#c9649a",
    "#62b4e6",
    "#8793a1",
    "#d9b02f",
)

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _GRID,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "errorbar.capsize": 2,
    "lines.linewidth": 1.8,
}


def styled() -> AbstractContextManager[None]:
    """Inside, matplotlib draws as the report's figures look; elsewhere as ever."""
    return matplotlib.rc_context(_STYLE)


def canvas(
    width: float = 7.4, height: float = 3.4, columns: int = 1, **options: Any
) -> tuple[Canvas, Sequence[Axes]]:
    """A figure in inches, and its axes side by side."""
    figure, (line,) = grid(1, columns, width=width, height=height, **options)
    return figure, line


def grid(
    rows: int, columns: int, *, width: float = 7.4, height: float, **options: Any
) -> tuple[Canvas, Sequence[Sequence[Axes]]]:
    """A figure in inches, and its axes row by row."""
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(width, height), layout="constrained", squeeze=False, **options
    )
    return figure, [list(line) for line in axes]


def finish(drawn: Canvas, name: str, caption: str) -> Figure:
    """The figure as SVG for the page; it cannot be drawn on afterwards."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    drawn.savefig(buffer, format="svg", metadata=nothing)
    pyplot.close(drawn)
    text = buffer.getvalue()
    svg = text[text.index("<svg") :].strip()
    for stand_in, colour in _OF_THE_PAGE.items():
        svg = svg.replace(stand_in, colour)
    return Figure(name=name, svg=_names_of_its_own(svg, name), caption=caption)


def _names_of_its_own(svg: str, name: str) -> str:
    """Several figures on a page must not share an id; those that nothing points to can go."""
    used = set(re.findall(r"[\"(]#([^\")]+)[\")]", svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    return re.sub(r"([\"(])#([^\")]+)([\")])", rf"\1#{name}-\2\3", svg)


def interval(rows: Sequence[dict[str, float]]) -> tuple[list[float], list[list[float]]]:
    """Heights in percent, and the lengths of the error bars below and above them."""
    known = [row if row["value"] is not None else dict.fromkeys(row, math.nan) for row in rows]
    heights = [100 * row["value"] for row in known]
    below = [100 * (row["value"] - row["low"]) for row in known]
    above = [100 * (row["high"] - row["value"]) for row in known]
    return heights, [below, above]


def grouped_bars(
    axes: Axes, names: Sequence[str], groups: Mapping[str, tuple[str, Sequence[dict[str, float]]]]
) -> None:
    """Bars with their 95 % intervals, a group a name.

    Args:
        groups: colour and rates by label.
    """
    width = 0.8 / len(groups)
    for position, (label, (colour, rows)) in enumerate(groups.items()):
        places = [i + width * (position - (len(groups) - 1) / 2) for i in range(len(names))]
        heights, bars = interval(rows)
        axes.bar(places, heights, 0.92 * width, color=colour, label=label)
        axes.errorbar(places, heights, yerr=bars, fmt="none", ecolor=_INK, elinewidth=0.9)
    slanted(axes, names)
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(0, 104)
    axes.set_ylabel("percent")


def slanted(axes: Axes, names: Sequence[str]) -> None:
    """Names under the ticks, as long as they are."""
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")


def legend_above(figure: Canvas, axes: Axes, columns: int) -> None:
    """The legend over the plot, where it hides nothing."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=columns)
