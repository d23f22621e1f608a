"""``benchmarks.efficacy robustness``: attack and erasure after what platforms do to a picture (Table V).

Every picture is protected and saved as JPEG; an operation changes the published file; strangers look at
that, and the authority erases from it.
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
from training.evaluation.statistics import percent

from ..common import as_click_errors, names_below
from ..schema import write_result
from .operations import OPERATIONS
from .protocol import Faces, Laboratory, chosen_pictures, laboratory_options, lost_faces
from .published import decode
from .suspicion import finish

RATES = {"asr": "ASR", "esr": "ESR", "owner_accepted_restored": "owner, restored"}


def run_picture(
    path: Path, laboratory: Laboratory, *, index: int, seed: int
) -> dict[str, dict[str, Faces]] | None:
    """Embeddings by operation and version; None where there is no face to protect."""
    made = laboratory.protect(path)
    if made is None:
        return None
    clean, protected_file = made
    own, protected = laboratory.embed(clean), decode(protected_file)
    found: dict[str, dict[str, Faces]] = {}
    for number, (name, operation) in enumerate(OPERATIONS.items()):
        published = operation(protected, np.random.default_rng([seed, index, number]))
        restored_file = laboratory.publisher.erase(published)
        found[name] = {
            "clean": own,
            "protected": laboratory.embed(published),
            "restored": laboratory.embed(decode(restored_file) if restored_file else None),
        }
    return found


def measure(paths: Sequence[Path], laboratory: Laboratory, *, seed: int) -> dict[str, Any]:
    """Runs every operation over pictures.

    Raises:
        NoFaceError: there is none in the target's picture, or in any of the pictures.
    """
    with laboratory:
        found = [
            run_picture(path, laboratory, index=index, seed=seed)
            for index, path in enumerate(track(paths, "pictures"))
        ]
    pictures = [picture for picture in found if picture is not None]
    if not pictures:
        raise NoFaceError(f"no face was found in any of {len(paths)} pictures")
    return {
        **laboratory.about("robustness"),
        "pictures": len(paths),
        "no_face_found": len(found) - len(pictures),
        "operations": {
            name: {
                "lost": lost_faces([picture[name] for picture in pictures]),
                "recognizers": laboratory.summarise([picture[name] for picture in pictures]),
            }
            for name in OPERATIONS
        },
        # Only where nothing happened to the published file: some operations end erasure honestly.
        **laboratory.plausibility([picture["none"] for picture in pictures]),
    }


def table_of(result: dict[str, Any]) -> Table:
    """ASR / ESR / owner accepted after erasure, a row an operation, a column a recogniser."""
    table = Table(title=f"{result['pictures']} pictures: {' / '.join(RATES.values())}, percent")
    table.add_column("operation")
    operations = result["operations"]
    for name, row in next(iter(operations.values()))["recognizers"].items():
        table.add_column(f"{name} ({row['role']})", justify="right")
    for operation, measured in operations.items():
        rows = measured["recognizers"].values()
        cells = [" / ".join(percent(row[key]).split()[0] for key in RATES) for row in rows]
        table.add_row(operation, *cells)
    return table


@click.command()
@click.option(
    "--images", required=True, type=click.Path(path_type=Path, exists=True), help="Or CelebA's root."
)
@click.option("--count", default=100, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", required=True, type=click.Path(path_type=Path))
@laboratory_options
def command(images: Path, count: int, seed: int, out: Path, **laboratory: Any) -> None:
    """Attack and erasure success after image operations."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    with as_click_errors():
        paths, data = chosen_pictures(images, count, seed)
        result = measure(paths, Laboratory(**laboratory), seed=seed)
    result |= {"seed": seed, "data": data, "picture_list": names_below(images, paths)}
    Console(width=170).print(table_of(result))
    write_result(result, out)
    finish(result)
