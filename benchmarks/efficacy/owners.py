"""``benchmarks.efficacy owners``: do strangers find the person by OTHER photos, before and after?

Of every person in CelebA's test partition one picture is protected, saved, erased and saved; the others
stay as they are. Verification compares it with as many of the others as everybody has, search looks for it
in a gallery of one other photo of every person and the target.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from runtime.errors import NoFaceError
from runtime.pictures import read_picture
from training.evaluation import owner_rates
from training.evaluation.rates import FARS_OWNER, VERSIONS
from training.evaluation.statistics import percent

from ..common import as_click_errors, names_below
from ..schema import write_result
from .protocol import Faces, Laboratory, laboratory_options, lost_faces, matrix, people_of_celeba
from .published import decode
from .suspicion import finish


def run_person(photos: Sequence[Path], laboratory: Laboratory) -> tuple[dict[str, Faces], list[Faces]] | None:
    """Embeddings of the first photo's versions and of the other photos; None without a face to protect."""
    made = laboratory.protect(photos[0])
    if made is None:
        return None
    clean, protected_file = made
    protected = decode(protected_file)
    restored_file = laboratory.publisher.erase(protected)
    shown = {
        "clean": clean,
        "protected": protected,
        "restored": decode(restored_file) if restored_file else None,
    }
    return (
        {version: laboratory.embed(pixels) for version, pixels in shown.items()},
        [laboratory.embed(read_picture(photo).pixels) for photo in photos[1:]],
    )


def measure(everybody: Sequence[Sequence[Path]], laboratory: Laboratory) -> dict[str, Any]:
    """Runs the whole protocol over people with two photos or more each.

    Raises:
        NoFaceError: there is none in the target's picture, or in any first photo.
    """
    m = min(len(photos) for photos in everybody) - 1
    with laboratory:
        found = [run_person(photos[: 1 + m], laboratory) for photos in track(everybody, "people")]
    people = [person for person in found if person is not None]
    if not people:
        raise NoFaceError(f"no face was found in the pictures of {len(found)} people")
    rows: dict[str, Any] = {}
    for name, role in laboratory.roles.items():
        target = laboratory.target[name]
        faces = {v: matrix([versions[v] for versions, _ in people], name, len(target)) for v in VERSIONS}
        others = np.stack([matrix(photos, name, len(target)) for _, photos in people])
        limits = {far: laboratory.thresholds.at(name, far) for far in FARS_OWNER}
        rows[name] = {"role": role, **owner_rates(faces, others, [target], limits)}
    return {
        **laboratory.about("owners"),
        "people": len(people),
        "other_photos": m,
        "no_face_found": len(found) - len(people),
        "lost": lost_faces([versions for versions, _ in people]),
        "recognizers": rows,
        **laboratory.plausibility([versions for versions, _ in people]),
    }


def table_of(result: dict[str, Any]) -> Table:
    """The rates by recogniser, clean / protected / restored, in percent."""
    table = Table(
        title=f"{result['people']} people, owner found by other photos: clean / protected / restored"
    )
    table.add_column("recogniser")
    measures = list(next(iter(result["recognizers"].values()))["clean"])
    for measure in measures:
        table.add_column(measure, justify="right")
    for name, row in result["recognizers"].items():
        cells = [" / ".join(percent(row[version][measure]) for version in VERSIONS) for measure in measures]
        table.add_row(f"{name} ({row['role']})", *cells)
    return table


@click.command()
@click.option("--celeba", required=True, type=click.Path(path_type=Path, exists=True), help="CelebA's root.")
@click.option("--people", "count", type=int, help="Only the first so many people.")
@click.option("--out", required=True, type=click.Path(path_type=Path))
@laboratory_options
def command(celeba: Path, count: int | None, out: Path, **laboratory: Any) -> None:
    """How often a person is found by other photos: clean, protected, restored."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    with as_click_errors():
        everybody = [photos for photos in people_of_celeba(celeba) if len(photos) > 1][:count]
        result = measure(everybody, Laboratory(**laboratory))
    photos_each = 1 + result["other_photos"]
    result |= {
        "data": f"{celeba.name}, test partition",
        "picture_list": [names_below(celeba, photos[:photos_each]) for photos in everybody],
    }
    Console(width=170).print(table_of(result))
    write_result(result, out)
    finish(result)
