"""The comparison as a table: for the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from ..numbers import QUALITY, number, percent

# The measures shown, of those that there are.
SHOWN = ("l1", "ssim", "psnr", "lpips_alex")


def table_of(result: Mapping[str, Any]) -> Table:
    """Attack success by recogniser, means, picture quality and time; percent where nothing is said."""
    table = Table(title=f"{result['pictures']} pictures, saved as JPEG q{result['jpeg_quality']}; percent")
    columns, rows = cells_of(result)
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    for row in rows:
        table.add_row(*row)
    return table


def markdown(result: Mapping[str, Any]) -> str:
    """The same table in Markdown, and below it how each rebuilding differs from its paper."""
    columns, rows = cells_of(result)
    lines = ["| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += [
        "",
        *(
            f"- **{name}.** {row['paper']}. {row['differs']}{_doubts(row)}"
            for name, row in result["peers"].items()
        ),
    ]
    return "\n".join(lines) + "\n"


def cells_of(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Column names, and a list of cells for each peer; a peer without numbers has its reason in the first."""
    measured = [row for row in result["peers"].values() if "recognizers" in row]
    roles = {name: row["role"] for row in measured[:1] for name, row in row["recognizers"].items()}
    quality = [key for key in SHOWN if measured and key in measured[0]["quality"]]
    columns = [
        "method",
        *(f"ASR {name} ({role})" for name, role in roles.items()),
        "ASR, black-box",
        "owner lost, black-box",
        "ESR, black-box",
        *(QUALITY[key][0] for key in quality),
        "SSIM, crop",
        "faces lost",
        "s a face",
    ]
    rows = []
    for name, row in result["peers"].items():
        if "recognizers" not in row:
            rows.append([f"{name}: {row['reason']}", *("" for _ in columns[1:])])
            continue
        black = [rates for rates in row["recognizers"].values() if rates["role"] == "black-box"]
        rows.append(
            [
                name + (" (suspicious)" if row.get("suspicions") else ""),
                *(percent(rates["asr"]) for rates in row["recognizers"].values()),
                *(_mean(black, key) for key in ("asr", "dodging", "esr")),
                *(number(row["quality"][key], QUALITY[key][1]) for key in quality),
                number(row["network"]["ssim"]),
                str(row["lost"]),
                f"{row['network']['seconds_a_face']:.3g}",
            ]
        )
    return columns, rows


def _doubts(row: Mapping[str, Any]) -> str:
    return "".join(f" SUSPICIOUS: {suspicion['found']}." for suspicion in row.get("suspicions", ()))


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    """Mean over recognisers; a dash where there are none, or nothing can be erased."""
    if not rows or any(row[key] is None for row in rows):
        return "-"
    return f"{100 * sum(row[key]['value'] for row in rows) / len(rows):.0f}"
