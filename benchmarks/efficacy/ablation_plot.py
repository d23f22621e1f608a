"""``benchmarks.efficacy ablation-plot``: the ablations as a Markdown table and a plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

RATES = {"asr": "ASR", "esr": "ESR", "dodging": "owner lost"}
COLOURS = ("tab:blue", "tab:green", "tab:orange")


def _mean(variant: dict[str, Any], role: str, key: str) -> float:
    rows = [row for row in variant["evaluation"]["recognizers"].values() if row["role"] == role]
    return sum(row[key]["value"] for row in rows) / len(rows)


def table(result: dict[str, Any]) -> str:
    """Mean rates over the white-box and the black-box recognisers, and picture quality, by variant."""
    lines = [
        f"{result['training_faces']} training faces a variant, stage 1 of `{result['base']}`, measured on "
        f"crops of {result['test_people']} people; means over the recognisers of a kind, in percent.",
        "",
        "| variant | white-box "
        + " / ".join(RATES.values())
        + " | black-box "
        + " / ".join(RATES.values())
        + " | LPIPS | protected SSIM | restored SSIM |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, variant in result["variants"].items():
        quality = variant["evaluation"]["quality"]
        rates = [
            " / ".join(f"{100 * _mean(variant, role, key):.0f}" for key in RATES)
            for role in ("white-box", "black-box")
        ]
        lpips = quality["protected against edited"].get("lpips", {}).get("value", float("nan"))
        lines.append(
            f"| {name} | {rates[0]} | {rates[1]} | {lpips:.3f} | "
            f"{quality['protected against edited']['ssim']['value']:.3f} | "
            f"{quality['restored against clean']['ssim']['value']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def plot(result: dict[str, Any], path: Path) -> None:
    """Bars of the black-box means with the recognisers as dots, a group a variant."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(result["variants"])
    figure, axes = pyplot.subplots(figsize=(10, 4.5), layout="constrained")
    for offset, (key, colour) in enumerate(zip(RATES, COLOURS, strict=True), -1):
        xs = [position + 0.27 * offset for position in range(len(names))]
        heights = [100 * _mean(variant, "black-box", key) for variant in result["variants"].values()]
        axes.bar(xs, heights, width=0.25, color=colour, alpha=0.75, label=RATES[key])
        for x, variant in zip(xs, result["variants"].values(), strict=True):
            rows = variant["evaluation"]["recognizers"].values()
            dots = [100 * row[key]["value"] for row in rows if row["role"] == "black-box"]
            axes.plot([x] * len(dots), dots, ".", color="black", markersize=4)
    axes.set_xticks(range(len(names)), names, rotation=20, ha="right")
    axes.set_ylabel("percent, black-box recognisers")
    axes.set_ylim(0, 122)  # room for the legend
    axes.set_yticks(range(0, 101, 20))
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="upper right", ncols=3)
    figure.savefig(path, dpi=130)


@click.command()
@click.option("--result", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="OUT.md and OUT.png.")
def command(result: Path, out: Path) -> None:
    """Draws what ``benchmarks.efficacy ablations`` measured."""
    measured = json.loads(result.read_text(encoding="utf-8"))
    out.with_suffix(".md").write_text(table(measured), encoding="utf-8")
    plot(measured, out.with_suffix(".png"))
    click.echo(table(measured))
