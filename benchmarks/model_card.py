"""``python -m benchmarks.model_card``: writes the measured block of a model card from an efficacy result."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

RATES = {
    "ASR, clean": "asr_clean",
    "ASR, protected": "asr",
    "ESR, restored": "esr",
    "owner lost, protected": "dodging",
    "owner accepted, restored": "owner_accepted_restored",
}

# Title and digits of each measure.
QUALITY = {
    "l1": ("L1", 4),
    "mse": ("MSE", 4),
    "psnr": ("PSNR, dB", 1),
    "ssim": ("SSIM", 3),
    "lpips_alex": ("LPIPS (AlexNet)", 3),
    "lpips_vgg": ("LPIPS (VGG)", 3),
}


def _percent(estimate: dict[str, float]) -> str:
    return f"{100 * estimate['value']:.0f} ({100 * estimate['low']:.0f}-{100 * estimate['high']:.0f})"


def _number(estimate: dict[str, float], digits: int = 3) -> str:
    return f"{estimate['value']:.{digits}f}"


def measured_block(result: dict[str, Any], name: str) -> str:
    """The Markdown between the markers: what was run, rates, mean cosines, picture quality.

    Args:
        result: of ``benchmarks.efficacy``.
        name: file name of the result, to be cited.
    """
    calibration, versions, lost = result["calibration"], result["environment"]["versions"], result["lost"]
    lines = [
        f"Result `benchmarks/results/{name}` of `python -m benchmarks.efficacy`: {result['pictures']} "
        f"pictures ({result['data']}, seed {result['seed']}), {result['no_face_found']} without a face; each "
        f"file saved as JPEG q{result['jpeg_quality']} after paste-back and read again, faces found anew "
        f"(lost on {lost['protected']} protected and {lost['restored']} restored files), in ONNX Runtime "
        f"{versions['onnxruntime']}. Thresholds by `python -m benchmarks.calibrate`: "
        f"{calibration['pairs']:,} impostor pairs of {calibration['pictures']} people of LFW. "
        "In percent, with 95 % intervals.",
        "",
        "| recogniser | role | " + " | ".join(RATES) + " |",
        "|---|---|" + "---:|" * len(RATES),
    ]
    for recognizer, row in result["recognizers"].items():
        rates = " | ".join(_percent(row[key]) for key in RATES.values())
        lines.append(f"| {recognizer} | {row['role']} | {rates} |")
    lines += [
        "",
        "Mean cosines:",
        "",
        "| recogniser | threshold (FAR 0.01) | to target: clean | protected | restored | to owner: protected "
        "| restored |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for recognizer, row in result["recognizers"].items():
        target, owner = row["cosine_to_target"], row["cosine_to_owner"]
        cosines = [
            target["clean"],
            target["protected"],
            target["restored"],
            owner["protected"],
            owner["restored"],
        ]
        lines.append(
            f"| {recognizer} | {row['threshold']['0.01']:.3f} | " + " | ".join(map(_number, cosines)) + " |"
        )
    measures = list(next(iter(result["quality"].values())))
    lines += [
        "",
        "| whole picture | " + " | ".join(QUALITY[measure][0] for measure in measures) + " |",
        "|---|" + "---:|" * len(measures),
    ]
    for pair, row in result["quality"].items():
        numbers = [_number(row[measure], QUALITY[measure][1]) for measure in measures]
        lines.append(f"| {pair} | " + " | ".join(numbers) + " |")
    return "\n".join(lines)


def fill(card: str, block: str) -> str:
    """Replaces what stands between the markers.

    Raises:
        ValueError: the card has no markers.
    """
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(card):
        raise ValueError(f"expected the markers {BEGIN} and {END} in the card")
    return pattern.sub(lambda _: f"{BEGIN}\n{block}\n{END}", card)


@click.command()
@click.option("--card", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--result", required=True, type=click.Path(path_type=Path, exists=True))
def main(card: Path, result: Path) -> None:
    """Replaces the measured figures of a card; the rest of it stays."""
    block = measured_block(json.loads(result.read_text(encoding="utf-8")), result.name)
    card.write_text(fill(card.read_text(encoding="utf-8"), block), encoding="utf-8")


if __name__ == "__main__":
    main()
