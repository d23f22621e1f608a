"""An evaluation as Markdown."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from .statistics import Estimate, percent

# Titles of what ``attack_rates`` gives.
RATES = {
    "ASR, clean": "asr_clean",
    "ASR, protected": "asr",
    "ESR, clean": "esr_clean",
    "ESR, restored": "esr",
    "owner lost, protected": "dodging",
    "owner accepted, restored": "owner_accepted_restored",
}


def markdown(result: dict[str, Any]) -> str:
    """Tables of rates, of the owner's being found, and of picture quality; percent with 95 % intervals."""
    lines = [
        f"# {result['run']}",
        "",
        f"{result['people']} people of {result['data']}, one crop each, saved as JPEG "
        f"q{result['jpeg_quality']}; {result['other_photos']} other photos of each. In percent, "
        f"with 95 % intervals. Target: {', '.join(result['target'])}.",
        "",
        "| recogniser | role | " + " | ".join(RATES) + " |",
        "|---|---|" + "---:|" * len(RATES),
    ]
    rows = result["recognizers"]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row['role']} | " + " | ".join(percent(row[key]) for key in RATES.values()) + " |"
        )
    for role in dict.fromkeys(row["role"] for row in rows.values()):
        means = [
            f"{100 * fmean(row[key].value for row in rows.values() if row['role'] == role):.0f}"
            for key in RATES.values()
        ]
        lines.append(f"| mean | {role} | " + " | ".join(means) + " |")
    measures = list(next(iter(rows.values()))["owner_found"]["clean"])
    lines += ["", "How often strangers find the owner by other photos: clean / protected / restored.", ""]
    lines += ["| recogniser | " + " | ".join(measures) + " |", "|---|" + "---:|" * len(measures)]
    for name, row in rows.items():
        found = [" / ".join(percent(version[m]) for version in row["owner_found"].values()) for m in measures]
        lines.append(f"| {name} | " + " | ".join(found) + " |")
    columns = list(next(iter(result["quality"].values())))
    lines += ["", "| picture | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for name, row in result["quality"].items():
        lines.append(f"| {name} | " + " | ".join(_number(row[column]) for column in columns) + " |")
    lines += ["", f"FID: {_fid(result['fid'])}."]
    return "\n".join(lines) + "\n"


def _fid(fid: dict[str, float] | str) -> str:
    if isinstance(fid, str):
        return fid
    return ", ".join(f"{pair} {distance:.1f}" for pair, distance in fid.items())


def _number(estimate: Estimate) -> str:
    return f"{estimate.value:.4f}" if estimate.value < 1 else f"{estimate.value:.1f}"
