"""``python -m benchmarks.owners``: do strangers find the person by OTHER photos, before and after?

Of every person in CelebA's test partition one picture is protected, saved, erased and saved; the others
stay as they are. Verification compares it with each of the others, search looks for it in a gallery of one
other photo of every person and the target.
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
from training.data import Split, read_celeba
from training.evaluation import Embedder, load_recognizers, owner_rates, read_thresholds
from training.evaluation.rates import FARS_OWNER, VERSIONS
from training.evaluation.statistics import percent, write_json

from .common import environment
from .efficacy import Faces, matrix
from .published import Publisher, decode
from .recognition import embed_main_face

logger = logging.getLogger(__name__)


def photos_by_person(root: Path, count: int | None) -> list[list[Path]]:
    """The test partition's pictures, person by person, in the order of their names; two or more each."""
    people: dict[int, list[Path]] = {}
    for record in read_celeba(root, Split.TEST):
        people.setdefault(record.identity, []).append(record.path)
    return [photos for photos in people.values() if len(photos) > 1][:count]


def run_person(
    photos: Sequence[Path], publisher: Publisher, recognizers: Sequence[Embedder]
) -> tuple[dict[str, Faces], list[Faces]] | None:
    """Embeddings of the first photo's versions and of the other photos; None without a face to protect."""

    def embed(pixels: Any) -> Faces:
        return embed_main_face(pixels, publisher.detector, recognizers)

    clean = read_picture(photos[0]).pixels
    try:
        protected = decode(publisher.protect(clean))
    except NoFaceError:
        logger.warning("no face was found in %s", photos[0].name)
        return None
    restored = publisher.erase(protected)
    versions = {
        "clean": clean,
        "protected": protected,
        "restored": decode(restored) if restored else protected,
    }
    return (
        {name: embed(pixels) for name, pixels in versions.items()},
        [embed(read_picture(photo).pixels) for photo in photos[1:]],
    )


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
@click.option("--recognizers", "cards", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--target", required=True, type=click.Path(path_type=Path, exists=True), help="Its picture.")
@click.option("--thresholds", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--bundle", type=click.Path(path_type=Path), help="With public/ and authority/.")
@click.option("--key", type=click.Path(path_type=Path), help="Default: the demo key of the bundle.")
@click.option("--people", "count", type=int, help="Only the first so many people.")
@click.option("--quality", default=95, show_default=True, help="JPEG quality of the saved files.")
@click.option("--threads", type=int, help="CPU threads of each network.")
@click.option("--out", required=True, type=click.Path(path_type=Path))
def main(
    celeba: Path,
    cards: Path,
    target: Path,
    thresholds: Path,
    bundle: Path | None,
    key: Path | None,
    count: int | None,
    quality: int,
    threads: int | None,
    out: Path,
) -> None:
    """How often a person is found by other photos: clean, protected, restored."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    recognizers = load_recognizers(cards, threads=threads)
    calibrated = read_thresholds(thresholds)
    calibrated.check(recognizers)
    with Publisher(bundle, key, quality=quality, threads=threads) as publisher:
        target_face = embed_main_face(read_picture(target).pixels, publisher.detector, recognizers)
        if target_face is None:
            raise click.ClickException(f"no face was found in the target's picture {target}")
        everybody = photos_by_person(celeba, count)
        found = [run_person(photos, publisher, recognizers) for photos in track(everybody, "people")]
    people = [person for person in found if person is not None]
    if not people:
        raise click.ClickException(f"no face was found in the pictures of {len(found)} people")
    m = min(len(others) for _, others in people)
    rows: dict[str, Any] = {}
    for recognizer in recognizers:
        name, size = recognizer.name, len(target_face[recognizer.name])
        faces = {v: matrix([versions[v] for versions, _ in people], name, size) for v in VERSIONS}
        others = np.stack([matrix(photos[:m], name, size) for _, photos in people])
        limits = {far: calibrated.at(name, far) for far in FARS_OWNER}
        rows[name] = {
            "role": recognizer.card.role,
            **owner_rates(faces, others, [target_face[name]], limits),
        }
    result = {
        "benchmark": "owners",
        "environment": environment(),
        "bundle": publisher.about,
        "data": f"{celeba.name}, test partition",
        "target": target.name,
        "jpeg_quality": quality,
        "people": len(people),
        "other_photos": m,
        "no_face_found": len(found) - len(people),
        "lost": {v: sum(versions[v] is None for versions, _ in people) for v in VERSIONS},
        "calibration": calibrated.source,
        "recognizers": rows,
    }
    Console(width=170).print(table_of(result))
    write_json(result, out)


if __name__ == "__main__":
    main()
