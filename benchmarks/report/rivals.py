"""Others: their ways to protect a face, and what a hacker gets back without the authority's restorer."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

from ..numbers import QUALITY, number, number_with_interval, percent
from .attack import said
from .parts import Document, Figure, Measured, Section, Table, judges, roles
from .style import GREY, ORANGE, PALETTE, canvas, finish, grouped_bars, interval, legend_above

OURS = "ErasableMask"


def peers(measured: Measured) -> Section:
    """Table II."""
    result = measured.document
    built = {name: row for name, row in result["peers"].items() if "recognizers" in row}
    left_out = [f"{peer}: {row['reason']}" for peer, row in result["peers"].items() if peer not in built]
    erasable = {
        name: row
        for name, row in built.items()
        if None not in (r["esr"] for r in row["recognizers"].values())
    }
    return Section(
        anchor="peers",
        title="Beside other people's methods (Table II)",
        source=measured.name,
        text=[
            f"{result['pictures']} pictures ({result['data']}, seed {result['seed']}); every method was "
            "rebuilt on one contract, works on the same aligned faces against the same white-box recognisers "
            "and target, and goes back into the photo as ours does. How each rebuilding differs from its "
            "paper is in the last table.",
            *(f"Not built: {reason}" for reason in left_out),
        ],
        figures=[peers_figure(built)] if built else [],
        tables=[
            rates_of_methods(result["peers"], "asr", "ASR"),
            rates_of_methods(
                result["peers"],
                "dodging",
                "Owner lost on the protected picture",
            ),
            *([rates_of_methods(erasable, "esr", "ESR of what can be erased")] if erasable else []),
            *([pictures_of_methods(built)] if built else []),
            Table(
                caption="What each method is.",
                columns=["method", "paper", "differs from it"],
                rows=[[peer, row["paper"], row["differs"]] for peer, row in result["peers"].items()],
                words=3,
            ),
        ],
    )


def rates_of_methods(methods: Mapping[str, Document], key: str, caption: str) -> Table:
    """A rate by method and recogniser; dashes for what was not built."""
    known: Document = next((row["recognizers"] for row in methods.values() if "recognizers" in row), {})
    return Table(
        caption=f"{caption}, percent with 95 % intervals ({roles(known)}).",
        columns=["method", *known],
        rows=[
            [
                method,
                *(percent(row["recognizers"][name][key]) if "recognizers" in row else "-" for name in known),
            ]
            for method, row in methods.items()
        ],
    )


def pictures_of_methods(built: Mapping[str, Document]) -> Table:
    """What each method does to the picture."""
    qualities = list(next(iter(built.values()))["quality"])
    known = {key: QUALITY.get(key, (key, 3)) for key in qualities}
    return Table(
        caption="Protected against clean pictures, means; levels (of 255) by which the aligned face changes, "
        "on average and at most; faces not found any more; seconds that the method takes for one.",
        columns=[
            "method",
            *(title for title, _ in known.values()),
            "mean change",
            "largest",
            "faces lost",
            "s a face",
        ],
        rows=[
            [
                method,
                *(number(row["quality"][key], digits) for key, (_, digits) in known.items()),
                f"{row['network']['mean_change_levels']:.1f}",
                str(row["network"]["max_change_levels"]),
                str(row["lost"]),
                f"{row['network']['seconds_a_face']:.2g}",
            ]
            for method, row in built.items()
        ],
    )


def peers_figure(built: Mapping[str, Document]) -> Figure:
    """ASR of the recognisers that count, a line a method, and beside it how much the picture changed."""
    role, judging = judges(next(iter(built.values()))["recognizers"])
    order = sorted(
        built, key=lambda name: mean(built[name]["recognizers"][j]["asr"]["value"] for j in judging)
    )
    changed = [built[name]["quality"].get("lpips_alex", {}).get("value") for name in order]
    with_change = None not in changed
    figure, panels = canvas(
        height=1.0 + 0.3 * len(order), columns=1 + with_change, sharey=True, **_two_to_one(with_change)
    )
    for place, (name, colour) in enumerate(zip(judging, PALETTE, strict=False)):
        rates = [built[method]["recognizers"][name]["asr"] for method in order]
        shares, bars = interval(rates)
        lines = [line + 0.22 * (place - (len(judging) - 1) / 2) for line in range(len(order))]
        panels[0].errorbar(shares, lines, xerr=bars, fmt="o", color=colour, markersize=4.5, label=name)
    panels[0].set_yticks(range(len(order)), order)
    panels[0].set_xlim(-2, 102)
    panels[0].set_xlabel("ASR, percent")
    if with_change:
        colours = [ORANGE if method == OURS else GREY for method in order]
        panels[1].barh(range(len(order)), changed, 0.7, color=colours)
        panels[1].set_xlabel("LPIPS, protected against clean")
    for axes in panels:
        axes.grid(visible=True, axis="x")
        axes.tick_params(length=0)
    legend_above(figure, panels[0], len(judging))
    return finish(
        figure,
        "peers",
        f"ASR on each {role} recogniser with 95 % intervals, the lowest mean below, and how much the picture "
        "changed.",
    )


def _two_to_one(both: bool) -> dict[str, Any]:
    return {"width_ratios": (2, 1)} if both else {}


def eraser(measured: Measured) -> Section:
    """What an unauthorised eraser brings back."""
    result = measured.document
    erasers = result["erasers"]
    recognizers = next(iter(erasers.values()))["recognizers"]
    measures = list(next(iter(recognizers.values()))["by_other_photos"]["clean"])[:2]
    qualities = list(next(iter(erasers.values()))["quality"])
    clean = {name: row["by_other_photos"]["clean"] for name, row in recognizers.items()}
    found = {
        "(clean pictures)": clean,
        **{
            name: {known: row["by_other_photos"]["erased"] for known, row in each["recognizers"].items()}
            for name, each in erasers.items()
        },
    }
    figure, (axes,) = canvas(height=3.6)
    colours = [*PALETTE, "#5b6675", "#9a5f2e", "#3f5fa8"]
    groups = {
        label: (colours[place % len(colours)], [row[measures[0]] for row in rows.values()])
        for place, (label, rows) in enumerate(found.items())
    }
    grouped_bars(axes, list(recognizers), groups)
    legend_above(figure, axes, 3)
    return Section(
        anchor="eraser",
        title="A hacker's own eraser",
        source=measured.name,
        text=[
            f"Whoever has the public bundle can make pairs of clean and protected faces and learn to undo "
            f"the mask. {result['people']} people ({result['data']}): strangers look for each by "
            f"{result['other_photos']} other photos, on the published picture and on what each eraser makes "
            "of it. The lower a hacker's bars, the better; the authority's should reach the clean ones."
        ],
        figures=[
            finish(figure, "eraser", f"Owners {said(measures[0])} after each eraser, with 95 % intervals.")
        ],
        tables=[
            Table(
                caption=f"Owners {said(measure)}, percent with 95 % intervals.",
                columns=["eraser", *recognizers],
                rows=[
                    [name, *(percent(row[measure]) for row in rows.values())] for name, rows in found.items()
                ],
            )
            for measure in measures
        ]
        + [
            Table(
                caption="Erased against clean pictures, means with 95 % intervals; faces not found any more.",
                columns=["eraser", *(QUALITY.get(key, (key, 3))[0] for key in qualities), "faces lost"],
                rows=[
                    [
                        name,
                        *(number_with_interval(row["quality"][key]) for key in qualities),
                        str(row["lost"]),
                    ]
                    for name, row in erasers.items()
                ],
            )
        ],
    )
