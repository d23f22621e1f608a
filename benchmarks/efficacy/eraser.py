"""``benchmarks.efficacy eraser``: what a hacker gets back without the authority's restorer.

The hacker has the public bundle and own faces: protects these, learns to undo it from the pairs, and then
erases what others published. Of every person in CelebA's test partition one picture is published; each eraser
makes its own file of it, and strangers compare that with the person's other photos, as in ``owners``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from runtime.errors import NoFaceError
from runtime.manifest import open_bundle
from runtime.shipped import default_bundle
from training.data import prepared_pack
from training.evaluation import mean_of
from training.evaluation.statistics import percent
from training.monitor import fixed_threads

from ..common import as_click_errors, names_below
from ..schema import write_result
from .erased_person import Person, Shelf, rates_of, run_person
from .erasers import GENERIC, Erase, by_network, in_place_of_the_restorer, unchanged
from .pairs import make_pairs
from .pictures import Perceptual, perceptual_distances
from .protocol import Laboratory, laboratory_options, people_of_celeba
from .published import Publisher
from .purifier import Learning, PurifierTraining
from .suspicion import finish

AUTHORITY = "authority"
NOBODY = "not erased"


def measure(
    everybody: Sequence[Sequence[Path]],
    laboratory: Laboratory,
    erasers: Mapping[str, Erase],
    perceptual: Mapping[str, Perceptual],
    *,
    folder: Path,
    made_of: Mapping[str, Any],
    minutes: float | None,
) -> dict[str, Any] | None:
    """Runs every eraser over people with two photos or more each; the authority's own is always among them.

    Args:
        folder: keeps who was measured.
        made_of: what the erasers are, JSON-like, so that nobody is kept who was measured with others.
        minutes: None for as long as it takes.

    Returns:
        None where the minutes were over first.

    Raises:
        NoFaceError: there is none in the target's picture, or in any first photo.
    """
    began = time.monotonic()
    m = min(len(photos) for photos in everybody) - 1
    people: list[Person] = []
    with ExitStack() as stack:
        stack.enter_context(laboratory)
        own = laboratory.publisher
        publishers = {AUTHORITY: own} | {
            name: stack.enter_context(
                Publisher(
                    own.bundle,
                    own.key,
                    quality=own.quality,
                    threads=own.threads,
                    eraser=in_place_of_the_restorer(name, erase),
                )
            )
            for name, erase in erasers.items()
        }
        depends = {
            "bundle": own.about,
            "quality": own.quality,
            "others": m,
            "erasers": [*publishers, made_of],
            "recognizers": [r.sha256 for r in laboratory.recognizers],
            "perceptual": list(perceptual),
        }
        shelf = Shelf(folder, depends)
        for photos in track(everybody, "people"):
            if not shelf.has(photos[0]):
                if minutes is not None and time.monotonic() - began > 60 * minutes:
                    return None
                shelf.put(photos[0], run_person(photos[: 1 + m], laboratory, publishers, perceptual))
            if (person := shelf.get(photos[0])) is not None:
                people.append(person)
    if not people:
        raise NoFaceError(f"no face was found in the pictures of {len(everybody)} people")
    laboratory.face_ssims = [person.face_ssim for person in people]
    return {
        **laboratory.about("eraser"),
        "people": len(people),
        "other_photos": m,
        "no_face_found": len(everybody) - len(people),
        "erasers": {
            name: {
                "lost": sum(person.shown[name] is None for person in people),
                "quality": {
                    measured: mean_of(np.array([person.quality[name][measured] for person in people]))
                    for measured in people[0].quality[name]
                },
                "recognizers": rates_of(people, laboratory, name),
            }
            for name in publishers
        },
        **laboratory.plausibility(
            [{"clean": p.shown["clean"], "restored": p.shown[AUTHORITY]} for p in people]
        ),
    }


def table_of(result: dict[str, Any]) -> Table:
    """A row an eraser: how often the owner is found by other photos, rank-1 / verified at FAR 0.01."""
    table = Table(title=f"{result['people']} people, owner found by other photos: rank-1 / FAR 0.01, percent")
    table.add_column("eraser")
    first = next(iter(result["erasers"].values()))
    for name, row in first["recognizers"].items():
        table.add_column(f"{name} ({row['role']})", justify="right")
    table.add_column("SSIM", justify="right")

    def cells(rows: Mapping[str, Any], version: str) -> list[str]:
        found = [row["by_other_photos"][version] for row in rows.values()]
        return [
            " / ".join(percent(each[key]).split()[0] for key in ("rank_1", "verified_0.01")) for each in found
        ]

    table.add_row("(clean pictures)", *cells(first["recognizers"], "clean"), "")
    for name, eraser in result["erasers"].items():
        ssim = f"{eraser['quality']['ssim'].value:.3f}"
        table.add_row(name, *cells(eraser["recognizers"], "erased"), ssim)
    return table


@click.command()
@click.option("--celeba", required=True, type=click.Path(path_type=Path, exists=True), help="CelebA's root.")
@click.option(
    "--faces",
    required=True,
    type=click.Path(path_type=Path, exists=True),
    help="The hacker's own: a pack of CelebA's training faces, as training prepares them.",
)
@click.option("--folder", required=True, type=click.Path(path_type=Path), help="Kept; rerun to go on.")
@click.option("--pairs", "counts", multiple=True, type=int, default=(500, 2000, 8000), show_default=True)
@click.option("--steps", default=1500, show_default=True, help="Of each training, whatever its pairs.")
@click.option("--minutes", type=float, help="Train and measure no longer than this now.")
@click.option("--people", "count", default=100, show_default=True)
@click.option("--lpips-alex", type=click.Path(path_type=Path, exists=True), help="AlexNet's, for LPIPS.")
@click.option("--lpips-vgg", type=click.Path(path_type=Path, exists=True), help="VGG-16's, likewise.")
@click.option("--out", required=True, type=click.Path(path_type=Path))
@laboratory_options
def command(
    celeba: Path,
    faces: Path,
    folder: Path,
    counts: tuple[int, ...],
    steps: int,
    minutes: float | None,
    count: int,
    lpips_alex: Path | None,
    lpips_vgg: Path | None,
    out: Path,
    **laboratory: Any,
) -> None:
    """Trains purifiers on pairs made with the public bundle, and measures what they bring back."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("benchmarks").setLevel(logging.INFO)
    fixed_threads(laboratory["threads"])
    folder.mkdir(parents=True, exist_ok=True)
    with as_click_errors():
        several = [photos for photos in people_of_celeba(celeba) if len(photos) > 1][:count]
        bundle = open_bundle((laboratory["bundle"] or default_bundle("public").parent) / "public")
        pack = prepared_pack(faces, bundle.manifest.image_size)
        if known := {photo.name for photos in several for photo in photos} & set(pack.names):
            raise ValueError(
                f"expected training faces of other people than are measured, found {len(known)} pictures of "
                f"{celeba.name}'s test partition in {faces}, e.g. {min(known)}"
            )
        own = pack.first(max(counts)).crops
        pairs = make_pairs(bundle, own, folder, quality=laboratory["quality"], threads=laboratory["threads"])
        erasers: dict[str, Erase] = {NOBODY: unchanged, **GENERIC}
        trained = {}
        began = time.monotonic()

        def left() -> float | None:
            return None if minutes is None else minutes - (time.monotonic() - began) / 60

        for number in counts:
            training = PurifierTraining(pairs, Learning(pairs=number, steps=steps), folder)
            if not training.run(left()):
                click.echo(f"{number} pairs: {training.done} of {steps} steps; run the same again to go on")
                return
            name = f"purifier, {number} pairs"
            erasers[name] = by_network(training.network)
            trained[name] = {**training.given, "seconds": training.seconds}
        result = measure(
            several,
            Laboratory(**laboratory),
            erasers,
            perceptual_distances(lpips_alex, lpips_vgg),
            folder=folder,
            made_of=trained,
            minutes=left(),
        )
        if result is None:
            click.echo("not everybody was measured; run the same again to go on")
            return
    photos_each = 1 + result["other_photos"]
    result |= {
        "data": f"{celeba.name}, test partition",
        "faces": faces.name,
        "training": trained,
        "picture_list": [names_below(celeba, photos[:photos_each]) for photos in several],
    }
    Console(width=170).print(table_of(result))
    write_result(result, out)
    finish(result)
