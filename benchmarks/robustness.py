"""``python -m benchmarks.robustness``: attack and erasure after what platforms do to a picture (Table V).

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
from runtime.pictures import read_picture
from training.evaluation import Embedder, load_recognizers, read_thresholds
from training.evaluation.statistics import percent, write_json

from .common import draw, environment, pictures_below
from .efficacy import Faces, celeba_test_pictures, summarise
from .operations import OPERATIONS
from .published import Publisher, decode
from .recognition import embed_main_face

logger = logging.getLogger(__name__)

RATES = {"asr": "ASR", "esr": "ESR", "owner_accepted_restored": "owner, restored"}


def run_picture(
    path: Path, index: int, seed: int, publisher: Publisher, recognizers: Sequence[Embedder]
) -> dict[str, dict[str, Faces]] | None:
    """Embeddings by operation and version; None where there is no face to protect."""
    clean = read_picture(path).pixels
    try:
        protected = decode(publisher.protect(clean))
    except NoFaceError:
        logger.warning("no face was found in %s", path.name)
        return None
    own = embed_main_face(clean, publisher.detector, recognizers)
    found: dict[str, dict[str, Faces]] = {}
    for number, (name, operation) in enumerate(OPERATIONS.items()):
        published = operation(protected, np.random.default_rng([seed, index, number]))
        restored = publisher.erase(published)
        found[name] = {
            "clean": own,
            "protected": embed_main_face(published, publisher.detector, recognizers),
            "restored": restored and embed_main_face(decode(restored), publisher.detector, recognizers),
        }
    return found


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
@click.option("--recognizers", "cards", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--target", required=True, type=click.Path(path_type=Path, exists=True), help="Its picture.")
@click.option("--thresholds", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--bundle", type=click.Path(path_type=Path), help="With public/ and authority/.")
@click.option("--key", type=click.Path(path_type=Path), help="Default: the demo key of the bundle.")
@click.option("--count", default=100, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--quality", default=95, show_default=True, help="JPEG quality of the saved files.")
@click.option("--threads", type=int, help="CPU threads of each network.")
@click.option("--out", required=True, type=click.Path(path_type=Path))
def main(
    images: Path,
    cards: Path,
    target: Path,
    thresholds: Path,
    bundle: Path | None,
    key: Path | None,
    count: int,
    seed: int,
    quality: int,
    threads: int | None,
    out: Path,
) -> None:
    """Attack and erasure success after image operations."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    is_celeba = (images / "list_eval_partition.txt").exists()
    paths = draw(celeba_test_pictures(images) if is_celeba else pictures_below(images), count, seed)
    recognizers = load_recognizers(cards, threads=threads)
    calibrated = read_thresholds(thresholds)
    calibrated.check(recognizers)
    with Publisher(bundle, key, quality=quality, threads=threads) as publisher:
        target_face = embed_main_face(read_picture(target).pixels, publisher.detector, recognizers)
        if target_face is None:
            raise click.ClickException(f"no face was found in the target's picture {target}")
        found = [
            run_picture(path, index, seed, publisher, recognizers)
            for index, path in enumerate(track(paths, "pictures"))
        ]
    pictures = [picture for picture in found if picture is not None]
    roles = {r.name: r.card.role for r in recognizers}
    operations = {
        name: {
            "lost": {v: sum(p[name][v] is None for p in pictures) for v in ("protected", "restored")},
            "recognizers": summarise([p[name] for p in pictures], roles, target_face, calibrated),
        }
        for name in OPERATIONS
    }
    result = {
        "benchmark": "robustness",
        "environment": environment(),
        "bundle": publisher.about,
        "data": f"{images.name}, test partition" if is_celeba else images.name,
        "seed": seed,
        "target": target.name,
        "jpeg_quality": quality,
        "pictures": len(pictures),
        "no_face_found": len(found) - len(pictures),
        "calibration": calibrated.source,
        "operations": operations,
    }
    Console(width=170).print(table_of(result))
    write_json(result, out)


if __name__ == "__main__":
    main()
