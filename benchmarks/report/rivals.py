"""Others: their ways to protect a face, and what a hacker gets back without the authority's restorer."""

from __future__ import annotations

from statistics import mean

from ..model_card import QUALITY
from .attack import said, trade_off
from .parts import Document, Measured, Section, Table, judges, number, number_with_interval, percent
from .style import PALETTE, canvas, finish, grouped_bars, legend_above

OURS = "ErasableMask"


def peers(measured: Measured) -> Section:
    """Table II."""
    result = measured.document
    built = {name: row for name, row in result["peers"].items() if "recognizers" in row}
    names = list(next(iter(built.values()))["recognizers"]) if built else []
    qualities = list(next(iter(built.values()))["quality"]) if built else []
    rows = []
    for peer, row in result["peers"].items():
        if peer not in built:
            rows.append([peer, *("-" for _ in (*names, *qualities, *range(3)))])
            continue
        rates = row["recognizers"]
        black = judges(rates)[1].values()
        erased = [rate["esr"] for rate in black]
        rows.append(
            [
                peer,
                *(percent(rates[name]["asr"]) for name in names),
                "-" if None in erased else " / ".join(map(percent, erased)),
                " / ".join(percent(rate["dodging"]) for rate in black),
                *(number(row["quality"][key], QUALITY.get(key, (key, 3))[1]) for key in qualities),
                str(row["lost"]),
            ]
        )
    left_out = [f"{peer}: {row['reason']}" for peer, row in result["peers"].items() if peer not in built]
    points = {
        peer: (row["quality"]["lpips_alex"]["value"], _mean_rate(row))
        for peer, row in built.items()
        if "lpips_alex" in row["quality"]
    }
    role = judges(next(iter(built.values()))["recognizers"])[0] if built else ""
    caption = (
        f"Mean ASR over the {role} recognisers (the bars span their widest ends) against how much the "
        "picture changed. Of the methods here only ErasableMask can be erased."
    )
    return Section(
        anchor="peers",
        title="Beside other people's methods (Table II)",
        source=measured.name,
        text=[
            f"{result['pictures']} pictures ({result['data']}, seed {result['seed']}); every method was "
            "rebuilt on one contract, works on the same aligned faces against the same white-box recognisers "
            "and target, and goes back into the photo as ours does. How each rebuilding differs from its "
            "paper is in the second table.",
            *(f"Not built: {reason}" for reason in left_out),
        ],
        figures=[trade_off(points, "peers", caption)] if points else [],
        tables=[
            Table(
                caption="ASR in percent with 95 % intervals; ESR and owner lost are those of the "
                f"{role} recognisers in their order; picture quality is of protected against clean pictures.",
                columns=[
                    "method",
                    *names,
                    f"ESR, {role}",
                    f"owner lost, {role}",
                    *(QUALITY.get(key, (key, 3))[0] for key in qualities),
                    "faces lost",
                ],
                rows=rows,
            ),
            Table(
                caption="What each method is.",
                columns=["method", "paper", "differs from it"],
                rows=[[peer, row["paper"], row["differs"]] for peer, row in result["peers"].items()],
                words=3,
            ),
        ],
    )


def _mean_rate(row: Document) -> dict[str, float]:
    rates = [rate["asr"] for rate in judges(row["recognizers"])[1].values()]
    return {
        "value": mean(rate["value"] for rate in rates),
        "low": min(rate["low"] for rate in rates),
        "high": max(rate["high"] for rate in rates),
    }


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
