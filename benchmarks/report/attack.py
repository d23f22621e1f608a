"""What strangers' recognisers make of the pictures: attack, erasure, owners, and image operations."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from matplotlib import colors
from matplotlib.axes import Axes

from training.evaluation.rates import VERSIONS
from training.evaluation.table import RATES

from ..numbers import QUALITY, number_with_interval, percent
from .parts import Document, Figure, Measured, Section, Table
from .style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    canvas,
    finish,
    grouped_bars,
    legend_above,
    slanted,
)

OPERATED = {
    "asr": "ASR",
    "esr": "ESR",
    "owner_accepted_restored": "owner accepted, restored",
}


def efficacy(measured: Measured) -> Section:
    """Tables II (our row) and VI."""
    result = measured.document
    lost = result["lost"]
    return Section(
        anchor="efficacy",
        title="Attack and erasure",
        source=measured.name,
        text=[
            f"{result['pictures']} pictures ({result['data']}, seed {result['seed']}), "
            f"{result['no_face_found']} of them without a face. Each was protected, saved as JPEG "
            f"q{result['jpeg_quality']}, read again, erased and saved again; faces were found anew on every "
            f"file and lost on {lost['protected']} protected and {lost['restored']} restored ones. A lost "
            "face is a success of nothing.",
            "ASR: how often the protected face passes for the target, at each recogniser's threshold for one "
            "false accept in a hundred. ESR: how often the restored face does not, at the threshold for one "
            "in ten; untouched pictures therefore end near 90 as well, see the column beside it.",
        ],
        figures=[bars(result)],
        tables=[rates_table(result), quality_table(result)],
    )


def hardened(measured: Measured) -> Section:
    """Table IV: recognisers that were trained against such attacks."""
    result = measured.document
    return Section(
        anchor="hardened",
        title="A professional: hardened recognisers",
        source=measured.name,
        text=[
            f"Recognisers fine-tuned against adversarial examples ({', '.join(result['hardening'])}), each "
            f"beside what it was made of; {result['pictures']} pictures ({result['data']}), as above."
        ],
        figures=[bars(result, "hardened")],
        tables=[rates_table(result)],
    )


def bars(result: Document, name: str = "efficacy") -> Figure:
    """ASR and ESR by recogniser."""
    rows = result["recognizers"]
    figure, (axes,) = canvas(height=3.3)
    groups = {
        "ASR, untouched": (GREY, [row["asr_clean"] for row in rows.values()]),
        "ASR, protected": (ORANGE, [row["asr"] for row in rows.values()]),
        "ESR, restored": (BLUE, [row["esr"] for row in rows.values()]),
        "owner accepted, restored": (GREEN, [row["owner_accepted_restored"] for row in rows.values()]),
    }
    grouped_bars(axes, list(rows), groups)
    mark_roles(axes, [row["role"] for row in rows.values()])
    legend_above(figure, axes, 4)
    return finish(
        figure,
        name,
        "How often protected faces pass for the target (ASR) and restored ones do not (ESR), by recogniser, "
        "with 95 % intervals.",
    )


def mark_roles(axes: Axes, roles: Sequence[str]) -> None:
    """Says over the bars which recognisers are white-box and which black-box."""
    start = 0
    for role, group in groupby(roles):
        end = start + len(list(group))
        axes.text((start + end - 1) / 2, 106, role, ha="center", fontsize=8.5, color=INK)
        if start:
            axes.axvline(start - 0.5, color=INK, linewidth=0.8, linestyle=":")
        start = end


def rates_table(result: Document) -> Table:
    """All rates by recogniser."""
    return Table(
        caption="Rates in percent with 95 % intervals.",
        columns=["recogniser", "role", *RATES],
        rows=[
            [name, row["role"], *(percent(row[key]) for key in RATES.values())]
            for name, row in result["recognizers"].items()
        ],
        words=2,
    )


def quality_table(result: Document) -> Table:
    """Picture quality of whole pictures."""
    measures = list(next(iter(result["quality"].values())))
    known = {measure: QUALITY.get(measure, (measure, 3)) for measure in measures}
    fid = result["fid"]
    told = isinstance(fid, str)  # why it was not measured
    return Table(
        caption="Picture quality over whole pictures, means with 95 % intervals."
        + (f" FID: {fid}." if told else ""),
        columns=["measure", *result["quality"]],
        rows=[
            *(
                [title, *(number_with_interval(row[measure], digits) for row in result["quality"].values())]
                for measure, (title, digits) in known.items()
            ),
            *([] if told else [["FID", *(f"{fid[pair]:.1f}" for pair in result["quality"])]]),
        ],
    )


def owners(measured: Measured) -> Section:
    """Whether strangers find a person by other photos."""
    result = measured.document
    rows = result["recognizers"]
    measures = list(next(iter(rows.values()))["clean"])
    figure, panels = canvas(height=3.5, columns=2, sharey=True)
    titles = {"rank_1": "found first in a search", measures[1]: said(measures[1])}
    for axes, (measure, title) in zip(panels, titles.items(), strict=True):
        groups = {
            version: (colour, [row[version][measure] for row in rows.values()])
            for version, colour in zip(VERSIONS, (GREY, ORANGE, BLUE), strict=True)
        }
        grouped_bars(axes, list(rows), groups)
        axes.set_title(title)
    panels[1].set_ylabel("")
    legend_above(figure, panels[0], 3)
    return Section(
        anchor="owners",
        title="Is the owner found by other photos?",
        source=measured.name,
        text=[
            f"{result['people']} people ({result['data']}): one picture of each is protected, and strangers "
            f"compare it with {result['other_photos']} other photos of the same person, or search for it in "
            "a gallery of one other photo of everybody and the target. This is what a user cares about: the "
            "protected bars should be low, the restored ones as high as the clean ones."
        ],
        figures=[
            finish(
                figure,
                "owners",
                "Owners found by other photos of theirs: clean, protected and restored pictures, with 95 % "
                "intervals.",
            )
        ],
        tables=[
            Table(
                caption=f"{said(measure)}: percent with 95 % intervals.",
                columns=["recogniser", "role", *VERSIONS],
                rows=[
                    [name, row["role"], *(percent(row[version][measure]) for version in VERSIONS)]
                    for name, row in rows.items()
                ],
                words=2,
            )
            for measure in measures
        ],
    )


def said(measure: str) -> str:
    """``verified_0.01`` in words."""
    if measure == "rank_1":
        return "found first in a search (rank 1)"
    return f"verified at a false accept rate of {measure.removeprefix('verified_')}"


def robustness(measured: Measured) -> Section:
    """Table V."""
    result = measured.document
    operations = result["operations"]
    recognizers = next(iter(operations.values()))["recognizers"]
    return Section(
        anchor="robustness",
        title="After what platforms do to a picture",
        source=measured.name,
        text=[
            f"{result['pictures']} pictures ({result['data']}, seed {result['seed']}), published, then "
            "changed by others. Strangers look at the changed file, and the authority erases from it."
        ],
        figures=[heat_map(result)],
        tables=[
            Table(
                caption=f"{title}: percent with 95 % intervals.",
                columns=["operation", *recognizers],
                rows=[
                    [name, *(percent(rates[key]) for rates in row["recognizers"].values())]
                    for name, row in operations.items()
                ],
            )
            for key, title in OPERATED.items()
        ]
        + [
            Table(
                caption="Faces that were not found any more.",
                columns=["operation", "published", "restored"],
                rows=[
                    [name, str(row["lost"]["protected"]), str(row["lost"]["restored"])]
                    for name, row in operations.items()
                ],
            )
        ],
    )


def heat_map(result: Document) -> Figure:
    """A panel a rate: operations by recognisers."""
    operations = result["operations"]
    names = list(next(iter(operations.values()))["recognizers"])
    scale = colors.LinearSegmentedColormap.from_list("rates", ["#a8371f", "#b97f12", "#23845c"])
    figure, panels = canvas(width=9.2, height=0.75 + 0.27 * len(operations), columns=3, sharey=True)
    for axes, (key, title) in zip(panels, OPERATED.items(), strict=True):
        rates = [
            [100 * row["recognizers"][name][key]["value"] for name in names] for row in operations.values()
        ]
        axes.imshow(rates, cmap=scale, vmin=0, vmax=100, aspect="auto", alpha=0.9)
        for y, line in enumerate(rates):
            for x, rate in enumerate(line):
                axes.text(x, y, f"{rate:.0f}", ha="center", va="center", color="#ffffff", fontsize=8)
        axes.set_title(title)
        slanted(axes, names)
        axes.set_yticks(range(len(operations)), list(operations))
        axes.grid(visible=False)
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)
    return finish(figure, "robustness", "Rates in percent after each operation: green is good, red is bad.")
