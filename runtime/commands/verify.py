"""``erasablemask verify``: does a real face recogniser take two faces for one person?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..recognizers import Recognizer
    from ..verification import KnownFace

PICTURE = click.Path(path_type=Path)


@click.command(
    epilog="""\b
    Examples:
      erasablemask verify me.jpg me.protected.jpg
      erasablemask verify me.jpg me.protected.jpg --target target.jpg --json"""
)
@click.argument("a", type=PICTURE)
@click.argument("b", type=PICTURE)
@click.option("--target", type=PICTURE, metavar="PICTURE", help="Compare both with this picture's face too.")
@click.option("--all-pairs", is_flag=True, help="Compare every face of A with every face of B.")
@click.option(
    "--far",
    type=click.Choice(["0.01", "0.001", "0.0001"]),
    default="0.01",
    show_default=True,
    help="False accept rate that sets the threshold.",
)
@click.option(
    "--recognizer", type=PICTURE, metavar="ONNX", help="SFace's file; see: erasablemask recognizers list"
)
@click.option("--bundle", type=PICTURE, metavar="FOLDER", help="Bundle whose face detector is used.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    a: Path,
    b: Path,
    target: Path | None,
    all_pairs: bool,
    far: str,
    recognizer: Path | None,
    bundle: Path | None,
    as_json: bool,
) -> None:
    """Compare the largest face of picture A with the largest of picture B.

    The recogniser is OpenCV's SFace, which took no part in training. A similarity of at least the threshold
    reads as "same person". The exit code is 0 whatever the verdict.
    """
    from .. import recognizers
    from ..detection import FaceDetector
    from ..manifest import open_bundle
    from ..pictures import read_picture
    from ..shipped import default_bundle
    from ..verification import describe

    paths = {"a": a, "b": b} | ({"target": target} if target else {})
    model = recognizers.load(recognizer)
    with FaceDetector.from_bundle(open_bundle(bundle or default_bundle("public"))) as detector:
        faces = {name: describe(read_picture(path).pixels, detector, model) for name, path in paths.items()}
    report = _report(faces, model, float(far), all_pairs) | {
        "pictures": {n: str(p) for n, p in paths.items()}
    }
    click.echo(json.dumps(report, indent=2) if as_json else _text(report))


def _report(
    faces: Mapping[str, tuple[KnownFace, ...]], model: Recognizer, far: float, all_pairs: bool
) -> dict[str, Any]:
    """Every comparison as plain values; faces are numbered from 0, the largest first."""
    from ..verification import compare

    def rows(first: str, second: str, every: bool) -> list[dict[str, Any]]:
        stop = None if every else 1
        pairs = []
        for i, one in enumerate(faces[first][:stop]):
            for j, other in enumerate(faces[second][:stop]):
                result = compare(one.embedding, other.embedding, model, far=far)
                pairs.append(
                    {
                        "first": [first, i],
                        "second": [second, j],
                        "similarity": round(result.similarity, 4),
                        "same": result.same,
                    }
                )
        return pairs

    comparisons = rows("a", "b", all_pairs)
    if "target" in faces:
        comparisons += rows("a", "target", False) + rows("b", "target", False)
    return {
        "recognizer": model.card.name,
        "far": far,
        "threshold": model.threshold(far),
        "faces": {name: len(found) for name, found in faces.items()},
        "comparisons": comparisons,
    }


def _text(report: Mapping[str, Any]) -> str:
    name, threshold, far = report["recognizer"], report["threshold"], report["far"]
    lines = [f"{name}, threshold {threshold:.3f} at a false accept rate of {far}"]
    for row in report["comparisons"]:
        (first, i), (second, j) = row["first"], row["second"]
        verdict = "same person" if row["same"] else "different persons"
        lines.append(f"{first}, face {i + 1} and {second}, face {j + 1}: {row['similarity']:.3f}  {verdict}")
    return "\n".join(lines)
