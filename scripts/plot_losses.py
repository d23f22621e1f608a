"""Draws losses of runs that continue one another, from their ``log.jsonl``, one panel a loss.

    python scripts/plot_losses.py runs/a runs/b --loss attack --loss visibility --out curves.png

The runs follow one another along the x axis in the order given; a vertical line is where a new one begins,
to within an interval of the log.
Thin is what was logged, thick its mean over ten lines. Needs the extra bench, for matplotlib.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np

SMOOTHED = 10  # lines of a log


def series_of(run: Path, loss: str) -> tuple[list[int], list[float]]:
    """Steps and values at which a run logged a loss; empty lists where it has none."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    found = [(line["step"], line[loss]) for line in lines if loss in line]
    return [step for step, _ in found], [value for _, value in found]


def moving_mean(values: list[float]) -> np.ndarray:
    """Mean of each value and the up to nine before it."""
    sums = np.cumsum([0.0, *values])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - SMOOTHED, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


@click.command()
@click.argument(
    "runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False)
)
@click.option("--loss", "losses", multiple=True, required=True, help="Repeatable.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False))
def main(runs: tuple[Path, ...], losses: tuple[str, ...], out: Path) -> None:
    """Draws the losses of RUNS, folders of python -m training, to a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        len(losses), figsize=(8, 1.8 * len(losses)), sharex=True, squeeze=False, layout="constrained"
    )
    begins = 0
    for number, run in enumerate(runs):
        last = 0
        for panel, loss in zip(panels[:, 0], losses, strict=True):
            steps, values = series_of(run, loss)
            if not steps:
                raise click.ClickException(f"expected the loss {loss!r} in {run / 'log.jsonl'}, found none")
            x = [begins + step for step in steps]
            panel.plot(x, values, color=f"C{number}", alpha=0.3, linewidth=0.8)
            panel.plot(x, moving_mean(values), color=f"C{number}", label=run.name)
            last = max(last, steps[-1])
            if number:
                panel.axvline(begins, color="grey", linewidth=0.6)
        begins += last
    for panel, loss in zip(panels[:, 0], losses, strict=True):
        panel.set_ylabel(loss)
        panel.grid(alpha=0.3)
    panels[0, 0].legend(fontsize="small", ncols=len(runs))
    panels[-1, 0].set_xlabel("step")
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
