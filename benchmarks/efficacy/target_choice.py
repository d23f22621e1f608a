"""``benchmarks.efficacy target-choice``: which of several pictures the fewest strangers pass for.

Every untouched face that a recogniser takes for the target is one that a restored picture cannot be told
from: ESR (Eq. 18) ends where it does. White-box recognisers and training faces alone decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from runtime.detection import FaceDetector
from runtime.errors import NoFaceError
from runtime.manifest import open_bundle
from runtime.pictures import read_picture
from runtime.shipped import default_bundle
from training.data import Split, read_celeba
from training.evaluation import (
    FAR_ERASURE,
    Embedder,
    Embedding,
    Thresholds,
    load_recognizers,
    read_thresholds,
)
from training.evaluation.statistics import percent, share_of

from ..common import as_click_errors, draw, environment, names_below, pictures_below
from ..schema import write_result
from .recognition import embed_main_face


def choice(
    candidates: dict[str, dict[str, Embedding]],
    strangers: Sequence[dict[str, Embedding]],
    thresholds: Thresholds,
) -> dict[str, dict[str, Any]]:
    """By candidate: each recogniser's share of strangers below tau_2 of Eq. 18, and their ``mean``.

    Args:
        candidates, strangers: embeddings by recogniser.

    Returns:
        The best candidate first.
    """
    rows: dict[str, dict[str, Any]] = {}
    for candidate, target in candidates.items():
        below = {
            name: share_of(
                np.array([face[name] @ target[name] for face in strangers]) < thresholds.at(name, FAR_ERASURE)
            )
            for name in target
        }
        rows[candidate] = {**below, "mean": float(np.mean([estimate.value for estimate in below.values()]))}
    return dict(sorted(rows.items(), key=lambda item: -item[1]["mean"]))


def embeddings(
    candidates: Sequence[Path], strangers: Sequence[Path], recognizers: Sequence[Embedder]
) -> tuple[dict[Path, dict[str, Embedding]], list[dict[str, Embedding]]]:
    """Embeddings of the candidates by picture, and of the strangers that show a face.

    Raises:
        NoFaceError: a candidate, or every stranger, shows none.
        ValueError: there are no recognisers.
    """
    if not recognizers:
        raise ValueError("expected at least one white-box recogniser, found none")
    with FaceDetector.from_bundle(open_bundle(default_bundle("public"))) as detector:

        def embed(path: Path) -> dict[str, Embedding] | None:
            return embed_main_face(read_picture(path).pixels, detector, recognizers)

        targets = {}
        for path in candidates:
            if (target := embed(path)) is None:
                raise NoFaceError(f"no face was found in the candidate {path}")
            targets[path] = target
        faces = [face for path in track(strangers, "strangers") if (face := embed(path)) is not None]
    if not faces:
        raise NoFaceError(f"no face was found in any of {len(strangers)} strangers' pictures")
    return targets, faces


@click.command()
@click.option("--candidates", required=True, type=click.Path(path_type=Path, exists=True), help="A folder.")
@click.option("--celeba", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--recognizers", "cards", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--thresholds", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--count", default=300, show_default=True, help="Of strangers.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", required=True, type=click.Path(path_type=Path))
def command(
    candidates: Path, celeba: Path, cards: Path, thresholds: Path, count: int, seed: int, out: Path
) -> None:
    """Ranks pictures of possible targets by how few strangers pass for them, best first."""
    with as_click_errors():
        recognizers = [r for r in load_recognizers(cards) if r.card.role == "white-box"]
        calibrated = read_thresholds(thresholds)
        calibrated.check(recognizers)
        pictures = draw([record.path for record in read_celeba(celeba, Split.TRAIN)], count, seed)
        targets, strangers = embeddings(pictures_below(candidates), pictures, recognizers)
    rows = choice({str(p.relative_to(candidates)): t for p, t in targets.items()}, strangers, calibrated)
    table = Table(title=f"Share of {len(strangers)} strangers that do not pass for the target, percent")
    for column in ("target", *(r.name for r in recognizers), "mean"):
        table.add_column(column)
    for name, row in rows.items():
        shares = [percent(row[recognizer.name]) for recognizer in recognizers]
        table.add_row(name, *shares, f"{100 * row['mean']:.1f}")
    Console(width=120).print(table)
    about = {"benchmark": "target_choice", "environment": environment(), "calibration": calibrated.source}
    drawn = {
        "data": f"{celeba.name}, training partition",
        "seed": seed,
        "strangers": len(strangers),
        "picture_list": names_below(celeba, pictures),
    }
    write_result({**about, **drawn, "no_face_found": count - len(strangers), "targets": rows}, out)
