"""What the other figures rest on: thresholds, the choice of a target, and the method without its parts."""

from __future__ import annotations

from statistics import mean

from training.config import override
from training.presets import PRESETS

from ..efficacy.ablations import REFERENCE, VARIANTS
from ..numbers import number, percent
from .parts import Document, Figure, Measured, Section, Table, judges, listed, roles
from .style import BLUE, GREEN, INK, ORANGE, canvas, finish, legend_above

RATES = {"asr": "ASR", "esr": "ESR", "dodging": "owner lost"}
# The knobs of Fig. 5: their titles, and the settings that hold them.
GAMMA, BETA = "gamma", "beta"


def calibrate(measured: Measured) -> Section:
    """Thresholds at fixed false accept rates."""
    result = measured.document
    fars = list(next(iter(result["recognizers"].values()))["threshold"])
    return Section(
        anchor=f"thresholds-{measured.name.removesuffix('.json')}",
        title="Thresholds",
        source=measured.name,
        text=[
            f"{result['pictures']:,} people of {result['data']}, one photo each, every pair an impostor pair "
            f"({result['pairs']:,} pairs, seed {result['seed']}), aligned by this project's own detector."
        ],
        tables=[
            Table(
                caption="Cosine from which two faces pass for one person, by false accept rate.",
                columns=["recogniser", *(f"FAR {far}" for far in fars), "SHA-256"],
                rows=[
                    [name, *(f"{row['threshold'][far]:.4f}" for far in fars), row["sha256"][:12]]
                    for name, row in result["recognizers"].items()
                ],
            )
        ],
    )


def target_choice(measured: Measured) -> Section:
    """Which target the fewest strangers pass for."""
    result = measured.document
    names = [name for name in next(iter(result["targets"].values())) if name != "mean"]
    return Section(
        anchor="target-choice",
        title="Choice of the target",
        source=measured.name,
        text=[
            f"Share of {result['strangers']} untouched strangers ({result['data']}, seed {result['seed']}) "
            "that do not pass for a picture of a target, at the threshold of ESR: ESR can hardly exceed it. "
            "Only white-box recognisers are asked."
        ],
        tables=[
            Table(
                caption="Percent with 95 % intervals, best first.",
                columns=["target", *names, "mean"],
                rows=[
                    [target, *(percent(row[name]) for name in names), f"{100 * row['mean']:.1f}"]
                    for target, row in result["targets"].items()
                ],
            )
        ],
    )


def ablations(measured: Measured) -> Section:
    """Table VII and Fig. 5."""
    result = measured.document
    evaluations = {name: variant["evaluation"] for name, variant in result["variants"].items()}
    recognizers = next(iter(evaluations.values()))["recognizers"]
    knobs = [knob_figure(result, knob) for knob in (GAMMA, BETA)]
    quality = next(iter(evaluations.values()))["quality"]
    measures = [(pair, measure) for pair in quality for measure in quality[pair]]
    return Section(
        anchor="ablations",
        title="The method without its parts (Table VII, Fig. 5)",
        source=measured.name,
        text=[
            f"Every variant was trained on one budget ({result['training_faces']} faces, stage 1 of "
            f"{result['base']}) and measured on crops of {result['test_people']} people. Such small "
            "trainings say which part matters, not how good the shipped model is.",
            *differences(result),
        ],
        figures=[figure for figure in knobs if figure is not None],
        tables=[
            *(
                Table(
                    caption=f"{title}, percent with 95 % intervals ({roles(recognizers)}).",
                    columns=["variant", *recognizers],
                    rows=[
                        [name, *(percent(row[key]) for row in evaluation["recognizers"].values())]
                        for name, evaluation in evaluations.items()
                    ],
                )
                for key, title in RATES.items()
            ),
            Table(
                caption="Picture quality of the crops, means.",
                columns=["variant", *(f"{measure}, {pair}" for pair, measure in measures)],
                rows=[
                    [name, *(number(evaluation["quality"][pair].get(measure)) for pair, measure in measures)]
                    for name, evaluation in evaluations.items()
                ],
            ),
        ],
    )


def knobs_of(result: Document, name: str) -> dict[str, float]:
    """beta and gamma that a variant was trained with: its settings over its preset's."""
    settings = {**result["reference"], **result["variants"][name].get("asked", {}).get("settings", {})}
    attack = override(
        PRESETS[result["preset"]], [f"{key}={value}" for key, value in settings.items()]
    ).attack_settings
    return {BETA: 1 - attack.strength, GAMMA: attack.injection}


def differences(result: Document) -> list[str]:
    """What today's command would train that this result does not hold, or holds otherwise."""
    missing = [name for name in VARIANTS if name not in result["variants"]]
    others = [key for key in REFERENCE if result["reference"].get(key) != REFERENCE[key]]
    return [
        *([f"Not trained: {listed(missing)}."] if missing else []),
        *([f"The reference is not today's, which differs in {listed(others)}."] if others else []),
    ]


def knob_figure(result: Document, knob: str) -> Figure | None:
    """Rates and picture quality by a knob; None with fewer than two variants that tell it alone apart."""
    known = {name: knobs_of(result, name) for name in result["variants"]}
    if "reference" not in known:
        return None
    points = {
        values[knob]: result["variants"][name]["evaluation"]
        for name, values in known.items()
        if name == "reference" or name.startswith(knob)
    }
    if len(points) < 2:
        return None
    figure, (rates, quality) = canvas(height=2.9, columns=2)
    places = sorted(points)
    for key, colour in zip(RATES, (ORANGE, BLUE, GREEN), strict=True):
        black = [judges(points[place]["recognizers"])[1].values() for place in places]
        means = [100 * mean(row[key]["value"] for row in rows) for rows in black]
        rates.plot(places, means, marker="o", color=colour, label=RATES[key])
        for place, rows in zip(places, black, strict=True):
            values = [100 * row[key]["value"] for row in rows]
            rates.plot([place] * len(values), values, ".", color=colour, markersize=4, alpha=0.6)
    rates.set_ylim(0, 104)
    rates.set_ylabel("percent, black-box")
    for pair, colour in (("protected against edited", ORANGE), ("restored against clean", BLUE)):
        values = [points[place]["quality"][pair]["ssim"]["value"] for place in places]
        quality.plot(places, values, marker="o", color=colour, label=pair)
    quality.set_ylabel("SSIM")
    quality.legend(labelcolor=INK)
    for axes in (rates, quality):
        axes.set_xlabel(knob)
        axes.set_xticks(places)
    legend_above(figure, rates, 3)
    return finish(
        figure,
        f"ablations-{knob}",
        f"Trade-off by {knob}: black-box rates (lines: means, dots: recognisers) and picture quality.",
    )
