"""``python -m benchmarks.model_card``: writes the measured part of a model card from results."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from training.evaluation.rates import VERSIONS
from training.evaluation.table import RATES

from .numbers import QUALITY, number, percent
from .schema import read_result

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

Result = dict[str, Any]


def _whole(estimate: dict[str, float]) -> str:
    return f"{100 * estimate['value']:.0f}"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> list[str]:
    """A Markdown table and the empty line before it; all but the first ``words`` columns hold numbers."""
    return [
        "",
        f"| {' | '.join(titles)} |",
        f"|{'---|' * words}{'---:|' * (len(titles) - words)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def efficacy_lines(result: Result, name: str) -> list[str]:
    """What was run, rates, mean cosines and picture quality, of ``benchmarks.efficacy pictures``."""
    calibration, versions, lost = result["calibration"], result["environment"]["versions"], result["lost"]
    recognizers = result["recognizers"]
    cosines = []
    for recognizer, row in recognizers.items():
        target, owner = row["cosine_to_target"], row["cosine_to_owner"]
        shown = (
            target["clean"],
            target["protected"],
            target["restored"],
            owner["protected"],
            owner["restored"],
        )
        cosines.append([recognizer, f"{row['threshold']['0.01']:.3f}", *map(number, shown)])
    measures = list(next(iter(result["quality"].values())))
    return [
        f"Result `benchmarks/results/{name}` of `python -m benchmarks.efficacy pictures`: "
        f"{result['pictures']} pictures ({result['data']}, seed {result['seed']}), "
        f"{result['no_face_found']} without a face; each file saved "
        f"as JPEG q{result['jpeg_quality']} after paste-back and read again, faces found anew "
        f"(lost on {lost['protected']} protected and {lost['restored']} restored files), in ONNX Runtime "
        f"{versions['onnxruntime']}. Thresholds by `python -m benchmarks.efficacy calibrate`: "
        f"{calibration['pairs']:,} impostor pairs of {calibration['pictures']} people of LFW. "
        "In percent, with 95 % intervals. ESR's threshold admits a tenth of all strangers (FAR 0.1), so that "
        "even untouched pictures (`ESR, clean`) do not reach 100.",
        *_table(
            ["recogniser", "role", *RATES],
            (
                [recognizer, row["role"], *(percent(row[key]) for key in RATES.values())]
                for recognizer, row in recognizers.items()
            ),
            words=2,
        ),
        "",
        "Mean cosines:",
        *_table(
            [
                "recogniser",
                "threshold (FAR 0.01)",
                "to target: clean",
                "protected",
                "restored",
                "to owner: protected",
                "restored",
            ],
            cosines,
        ),
        *_table(
            ["whole picture", *(QUALITY[measure][0] for measure in measures)],
            (
                [pair, *(number(row[measure], QUALITY[measure][1]) for measure in measures)]
                for pair, row in result["quality"].items()
            ),
        ),
    ]


def owners_lines(result: Result, name: str) -> list[str]:
    """How often strangers find the owner, of ``benchmarks.efficacy owners``."""
    measures = list(next(iter(result["recognizers"].values()))["clean"])
    lost = result["lost"]
    return [
        f"Result `benchmarks/results/{name}` of `python -m benchmarks.efficacy owners`: strangers look for "
        f"{result['people']} people ({result['data']}) by OTHER photos of theirs; `rank_1` in a gallery of "
        f"one photo of each and the target, `verified` at a false accept rate against "
        f"{result['other_photos']} photos of each. {result['no_face_found']} people without a face; faces "
        f"lost on {lost['protected']} protected and {lost['restored']} restored files. "
        "Clean / protected / restored, in percent.",
        *_table(
            ["recogniser", "role", *measures],
            (
                [
                    recognizer,
                    row["role"],
                    *(
                        " / ".join(percent(row[version][measure]) for version in VERSIONS)
                        for measure in measures
                    ),
                ]
                for recognizer, row in result["recognizers"].items()
            ),
            words=2,
        ),
    ]


def robustness_lines(result: Result, name: str) -> list[str]:
    """What is left of attack and erasure after image operations, of ``benchmarks.efficacy robustness``."""
    operations = result["operations"]
    recognizers = next(iter(operations.values()))["recognizers"]
    return [
        f"Result `benchmarks/results/{name}` of `python -m benchmarks.efficacy robustness`: "
        f"{result['pictures']} pictures ({result['data']}, seed {result['seed']}), published, "
        "then changed by others. Faces lost on published / restored files; "
        "ASR / ESR / owner accepted after erasure, in percent.",
        *_table(
            [
                "operation",
                "faces lost",
                *(f"{recognizer} ({row['role']})" for recognizer, row in recognizers.items()),
            ],
            (
                [
                    operation,
                    f"{measured['lost']['protected']} / {measured['lost']['restored']}",
                    *(
                        " / ".join(_whole(row[key]) for key in ("asr", "esr", "owner_accepted_restored"))
                        for row in measured["recognizers"].values()
                    ),
                ]
                for operation, measured in operations.items()
            ),
        ),
    ]


# What all results of one card have in common.
SAME = ("bundle", "target", "jpeg_quality")
LINES = {"efficacy": efficacy_lines, "owners": owners_lines, "robustness": robustness_lines}


def measured_block(results: Sequence[tuple[Result, str]]) -> str:
    """The Markdown between the markers.

    Args:
        results: of the benchmarks in ``LINES``, each with the file name it is cited by.

    Raises:
        ValueError: a result is of another benchmark or lacks a field, or they are not all of one bundle, one
            target and one JPEG quality.
    """
    blocks = []
    for result, name in results:
        kind = result.get("benchmark")
        if kind not in LINES:
            raise ValueError(f"{name}: expected a result of {', '.join(LINES)}, found one of {kind}")
        for field in SAME:
            if result.get(field) != results[0][0].get(field):
                raise ValueError(
                    f"{name}: expected the {field} of {results[0][1]}, {results[0][0].get(field)}, "
                    f"found {result.get(field)}"
                )
        try:
            blocks.append("\n".join(LINES[kind](result, name)))
        except KeyError as error:
            raise ValueError(f"{name} lacks {error}; measure again") from error
    return "\n\n".join(blocks)


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
@click.option(
    "--result", "results", required=True, multiple=True, type=click.Path(path_type=Path, exists=True)
)
def main(card: Path, results: tuple[Path, ...]) -> None:
    """Replaces the measured figures of a card; the rest of it stays."""
    try:
        block = measured_block([(read_result(path), path.name) for path in results])
        filled = fill(card.read_text(encoding="utf-8"), block)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    card.write_text(filled, encoding="utf-8")


if __name__ == "__main__":
    main()
