"""The anonymiser: whether machines still know a face, how alike it looks, and what an attacker gets back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from ..efficacy.reconstructors import MEAN_FACE
from ..numbers import QUALITY, number_with_interval, percent
from .parts import Document, Figure, Measured, Section, Table, judges
from .style import BLUE, GREY, INK, ORANGE, canvas, finish, grouped_bars, legend_above

BOTH, ONE = "anonymised-anonymised", "anonymised-clean"
# Told right in a comparison of the clean pictures, of both anonymised, and of one with a clean one.
COMPARISONS = {"clean-clean": GREY, BOTH: ORANGE, ONE: BLUE}


def anonymiser(measured: Measured) -> Section:
    """Recognition on LFW, and privacy."""
    result = measured.document
    stem = measured.name.removesuffix(".json")
    by_strength = result["strengths"]
    return Section(
        anchor=f"anonymiser-{stem}",
        title=f"The anonymiser: do machines still know the face? ({_kind(result)})",
        source=measured.name,
        text=[
            f"{result['pairs']} pairs of {result['data']} (View 2; {result['pictures']} pictures, "
            f"{result['no_face_found']} of them without a face). Each picture was anonymised with noise of "
            f"its own and saved as JPEG q{result['jpeg_quality']}; faces were found anew on every file. Told "
            "right by the cosine that is best on the other nine folds; a face that is lost is told wrong.",
            "Linked: the anonymised face passes for its own clean picture, at the cosine that one in a "
            "hundred clean pairs of strangers passes. That it does is what this system is for: it hides a "
            "face from people, not from machines.",
            *(
                f"At strength {row['strength']:g}, the mean over the {judges(row['recognizers'])[0]} "
                f"recognisers is {_mean(row, 'clean-clean'):.2f} % on clean pairs, {_mean(row, BOTH):.2f} % "
                f"on anonymised ones and {_mean(row, ONE):.2f} % on an anonymised picture beside a clean one."
                for row in by_strength
            ),
        ],
        figures=[told_right(by_strength[-1], stem), *trade_off(by_strength, stem)],
        tables=[
            *(accuracy_table(row) for row in by_strength),
            privacy_table(
                {f"{row['strength']:g}": row["privacy"] for row in by_strength},
                "strength",
                "Anonymised against clean faces: all of the aligned crop, and the core that nothing of the "
                "photo shines through.",
            ),
        ],
    )


def reconstruction(measured: Measured) -> Section:
    """What attackers get back."""
    result = measured.document
    stem = measured.name.removesuffix(".json")
    return Section(
        anchor=f"reconstruction-{stem}",
        title=f"The anonymiser: what an attacker gets back ({_kind(result)})",
        source=measured.name,
        text=[
            "Whoever has the public bundle can anonymise own faces and learn to undo it. "
            f"{result['pictures']} pictures of {result['data']}, as they are published, at the clean faces' "
            "landmarks; some attackers have several releases of each photo and average them. Whoever says "
            "the mean face of every picture does not look at any: only what is more alike than that was got "
            "out of the picture.",
        ],
        figures=[],
        tables=[
            privacy_table(
                {"published": row["published"]}
                | {name: attacker["privacy"] for name, attacker in row["reconstructions"].items()},
                "face",
                f"Alike to the clean face, at strength {row['strength']:g}.",
            )
            for row in result["strengths"]
        ],
    )


def opening(result: Document) -> list[str]:
    """The headline, of the strongest noise that was measured."""
    row = result["strengths"][-1]
    role = judges(row["recognizers"])[0]
    clean, both, one = (f"{_mean(row, which):.1f} %" for which in COMPARISONS)
    return [
        f"Of the anonymised pairs of {result['data']}, the {role} recognisers tell {both} right, beside a "
        f"clean picture {one} (clean pairs: {clean}), at strength {row['strength']:g} and an SSIM of "
        f"{_ssim(row['privacy']):.2f} to the clean face."
    ]


def costs(result: Document) -> list[str]:
    """Where anonymising costs recognition most."""
    row = result["strengths"][-1]
    rows = judges(row["recognizers"])[1]
    worst = min(rows, key=lambda name: float(rows[name]["accuracy"][BOTH]["value"]))
    told = rows[worst]["accuracy"]
    return [
        f"{worst} tells {percent(told[BOTH], 1)} % of the anonymised pairs right, of the clean ones "
        f"{percent(told['clean-clean'], 1)} %."
    ]


def got_back(result: Document) -> list[str]:
    """The best attacker on the strongest noise, beside one who does not look."""
    row = result["strengths"][-1]
    found = {name: _ssim(attacker["privacy"]) for name, attacker in row["reconstructions"].items()}
    by_nobody = found.pop(MEAN_FACE, None)
    if not found:
        return []
    best = max(found, key=lambda name: found[name])
    blind = "" if by_nobody is None else f"; the {MEAN_FACE} of others has {by_nobody:.2f}"
    return [
        f"The best reconstruction of anonymised faces ({best}, strength {row['strength']:g}) has an SSIM of "
        f"{found[best]:.2f} to the clean ones{blind}."
    ]


def _ssim(areas: Document) -> float:
    return float(areas["core"]["ssim"]["value"])


def _kind(result: Document) -> str:
    """Two bundles may be reported side by side."""
    noise = "" if result["stochastic"] else ", without noise: the ablation"
    return f"{result['bundle']['name']}{noise}"


def _mean(row: Document, comparison: str) -> float:
    """Over the recognisers that count, in percent."""
    judging = judges(row["recognizers"])[1].values()
    return 100 * fmean(judge["accuracy"][comparison]["value"] for judge in judging)


def told_right(row: Document, stem: str) -> Figure:
    """Bars by recogniser."""
    recognizers = row["recognizers"]
    figure, (axes,) = canvas(height=3.3)
    grouped_bars(
        axes,
        list(recognizers),
        {
            which: (colour, [judge["accuracy"][which] for judge in recognizers.values()])
            for which, colour in COMPARISONS.items()
        },
    )
    axes.set_ylim(45, 102)  # half is a guess
    legend_above(figure, axes, len(COMPARISONS))
    return finish(
        figure,
        f"anonymiser-{stem}",
        f"Pairs told right at strength {row['strength']:g}, with 95 % intervals; half of them by a guess.",
    )


def trade_off(by_strength: Sequence[Document], stem: str) -> list[Figure]:
    """Recognition against privacy along the strength; nothing with a single one."""
    if len(by_strength) < 2:
        return []
    figure, (axes,) = canvas(width=5.6, height=3.4)
    alike = [_ssim(row["privacy"]) for row in by_strength]
    for which in (BOTH, ONE):
        told = [_mean(row, which) for row in by_strength]
        axes.plot(alike, told, marker="o", color=COMPARISONS[which], label=which)
    for place, row in zip(alike, by_strength, strict=True):
        axes.annotate(
            f"{row['strength']:g}",
            (place, _mean(row, ONE)),
            textcoords="offset points",
            xytext=(4, -11),
            fontsize=8,
            color=INK,
        )
    axes.set_xlabel("SSIM of the core to the clean face: more alike to the right")
    axes.set_ylabel("told right, percent")
    legend_above(figure, axes, 2)
    role = judges(by_strength[0]["recognizers"])[0]
    return [
        finish(
            figure,
            f"anonymiser-trade-off-{stem}",
            f"Recognition against privacy: means over the {role} recognisers; the numbers are strengths.",
        )
    ]


def accuracy_table(row: Document) -> Table:
    """A row a recogniser."""
    return Table(
        caption=f"Pairs told right at strength {row['strength']:g}, percent with 95 % intervals; "
        f"{row['lost']} faces were lost.",
        columns=["recogniser", "role", *COMPARISONS, "linked"],
        rows=[
            [
                name,
                judge["role"],
                *(percent(judge["accuracy"][which], 2) for which in COMPARISONS),
                percent(judge["linked"], 1),
            ]
            for name, judge in row["recognizers"].items()
        ],
        words=2,
    )


def privacy_table(versions: Mapping[str, Document], title: str, caption: str) -> Table:
    """A row a version, a column an area and measure."""
    first = next(iter(versions.values()))
    known = [(area, measure) for area, measures in first.items() for measure in measures]
    digits = {measure: QUALITY.get(measure, (measure, 3)) for _, measure in known}
    return Table(
        caption=f"{caption} Means with 95 % intervals.",
        columns=[title, *(f"{digits[measure][0]}, {area}" for area, measure in known)],
        rows=[
            [
                name,
                *(number_with_interval(areas[area][measure], digits[measure][1]) for area, measure in known),
            ]
            for name, areas in versions.items()
        ],
    )
