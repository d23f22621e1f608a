"""The result of ``benchmarks.latency photo`` on the console."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from .stages import STAGES


def show(result: dict[str, Any]) -> None:
    """Prints whole photos by stage, cold starts, and the networks by batch."""
    console = Console(width=150)
    for table in (photos(result), cold(result), *batches(result)):
        if table.row_count:
            console.print(table)
    for backend, reason in result["missing"].items():
        console.print(f"not measured: {backend}: {reason}", highlight=False)


def photos(result: dict[str, Any]) -> Table:
    """Medians by stage, the total's quartiles and slow end."""
    table = Table(title="Whole photos, ms")
    for column in ("picture", "verb", "backend", "total", "quartiles", "p95", "p99", *STAGES):
        table.add_column(column, justify="left" if column in ("picture", "verb", "backend") else "right")
    for row in result["photos"]:
        about, total = result["pictures"][row["picture"]], row["total_ms"]
        size = f"{about['width_px']} x {about['height_px']}, faces: {about['faces']}"
        table.add_row(
            f"{row['picture']} ({size})",
            row["verb"],
            row["backend"],
            f"{total['median']:.0f}",
            "-".join(f"{quartile:.0f}" for quartile in total["quartiles"]),
            f"{total['p95']:.0f}",
            f"{total['p99']:.0f}",
            *(f"{row['stages_ms'][stage]['median']:.1f}" for stage in STAGES),
        )
    return table


def cold(result: dict[str, Any]) -> Table:
    """From a process's start to its photo."""
    table = Table(title="Cold start: from the process's start to the written photo")
    for column in ("picture", "verb", "backend", "ms", "quartiles", "peak MiB"):
        table.add_column(column)
    for row in result["cold"]:
        first, peak = row["first_photo_ms"], row["peak_mib"]
        table.add_row(
            row["picture"],
            row["verb"],
            row["backend"],
            f"{first['median']:.0f}",
            "-".join(f"{quartile:.0f}" for quartile in first["quartiles"]),
            "?" if peak is None else f"{peak:.0f}",
        )
    return table


def batches(result: dict[str, Any]) -> list[Table]:
    """Each network's time a face by batch."""
    tables = []
    for verb, network in result["networks"].items():
        sizes = sorted({row["batch"] for row in network["programs"]})
        table = Table(title=f"Network of {verb}, ms a face by batch; floor {network['floor_ms']:.2f} ms")
        for column in ("backend", *map(str, sizes)):
            table.add_column(column, justify="left" if column == "backend" else "right")
        for backend in dict.fromkeys(row["program"] for row in network["programs"]):
            times = {r["batch"]: r["ms_per_face"] for r in network["programs"] if r["program"] == backend}
            table.add_row(backend, *(f"{times[size]:.2f}" for size in sizes))
        tables.append(table)
    return tables
