"""A parity report in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from .parity_report import Comparison, ParityReport


def show_parity(console: Console, report: ParityReport) -> None:
    """Prints every comparison, and what was not compared and why."""
    console.print(_networks(report))
    seen = [comparison for comparison in report.comparisons if comparison.task is not None]
    if seen:
        console.print(_tasks(seen))
    if report.not_measured:
        console.print(f"What a recogniser sees was not compared: {report.not_measured}.")
    for backend, reason in report.missing.items():
        console.print(f"Not compared in {backend}: {reason}.")


def _networks(report: ParityReport) -> Table:
    table = Table(title=f"Drift of the exported networks on {report.faces}", min_width=60)
    for column in ("network", "in", "max", "mean", "99.9%", "within 1"):
        table.add_column(column, justify="left" if column in ("network", "in") else "right")
    for comparison in report.comparisons:
        for row in comparison.networks:
            within = "" if row.within_one is None else f"{row.within_one:.5%}"
            table.add_row(
                row.network,
                comparison.program,
                *(f"{value:.3g}" for value in (row.max, row.mean, row.p999)),
                within,
            )
    return table


def _tasks(comparisons: list[Comparison]) -> Table:
    """One column for each program that a recogniser saw the faces of."""
    first = comparisons[0].task
    assert first is not None
    table = Table(
        title=f"What {first.recognizer} sees, {first.faces} faces, trained and exported", min_width=60
    )
    table.add_column("protected and restored")
    columns = []
    for comparison in comparisons:
        table.add_column(comparison.program, justify="right")
        task = comparison.task
        assert task is not None
        columns.append(
            {
                "cosine of protected to target, largest change": _or_none(task.target_drift),
                "cosine of protected to owner, largest change": f"{task.own_drift:.4f}",
                "cosine of restored to owner, largest change": f"{task.restored_drift:.4f}",
                "ASR at FAR 0.01": _rates(task.asr),
                "ESR at FAR 0.01": _rates(task.esr),
                "attributes that agree": f"{task.kept_attributes:.2%}",
                "SSIM of the two protected, least": f"{task.ssim:.4f}",
            }
        )
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    return table


def _or_none(drift: float | None) -> str:
    return "no target given" if drift is None else f"{drift:.4f}"


def _rates(rates: tuple[float, float] | None) -> str:
    return "no target given" if rates is None else f"{rates[0]:.1%} -> {rates[1]:.1%}"
