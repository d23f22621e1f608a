"""A parity report in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .parity_report import Comparison, Parity, ParityReport


def show_parity(console: Console, report: ParityReport) -> None:
    """Prints every comparison, and what was not compared and why."""
    console.print(f"Drift of the exported networks on {report.faces}:", markup=False)
    groups: dict[tuple[str, str], list[Parity]] = {}
    for comparison in report.comparisons:
        groups.setdefault((comparison.program, comparison.bounds), []).extend(comparison.networks)
    for (program, bounds), rows in groups.items():
        console.print(_networks(f"{program}, within the bounds of {bounds}", rows))
    seen = [comparison for comparison in report.comparisons if comparison.task is not None]
    if seen:
        console.print(_tasks(seen))
    if report.not_measured:
        console.print(f"What a recogniser sees was not compared: {report.not_measured}.", markup=False)
    for backend, reason in report.missing.items():
        console.print(f"Not compared in {backend}: {reason}.", markup=False)


def _networks(title: str, rows: list[Parity]) -> Table:
    table = Table(title=escape(title), min_width=60)
    for column in ("network", "max", "mean", "99.9%", "within 1"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for row in rows:
        within = "" if row.within_one is None else f"{row.within_one:.5%}"
        table.add_row(row.network, *(f"{value:.3g}" for value in (row.max, row.mean, row.p999)), within)
    return table


def _tasks(comparisons: list[Comparison]) -> Table:
    """One column for each program that a recogniser saw the faces of."""
    first = comparisons[0].task
    assert first is not None
    table = Table(
        title=f"What {first.recognizer} sees, {first.faces} faces, trained and exported", min_width=60
    )
    table.add_column("largest change")
    columns = []
    for comparison in comparisons:
        table.add_column(comparison.program, justify="right")
        task = comparison.task
        assert task is not None
        columns.append(
            {
                "protected to target": _or_none(task.target_drift),
                "protected to owner": f"{task.own_drift:.4f}",
                "restored to owner": f"{task.restored_drift:.4f}",
                "ASR at FAR 0.01": _rates(task.asr),
                "ESR at FAR 0.01": _rates(task.esr),
                "other verdicts": (
                    "no target" if task.flips is None else f"{task.flips[0]}, {task.flips[1]}"
                ),
                "attributes agree": f"{task.kept_attributes:.2%}",
                "least SSIM": f"{task.ssim:.4f}",
            }
        )
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    return table


def _or_none(drift: float | None) -> str:
    return "no target" if drift is None else f"{drift:.4f}"


def _rates(rates: tuple[float, float] | None) -> str:
    return "no target" if rates is None else f"{rates[0]:.1%} -> {rates[1]:.1%}"
