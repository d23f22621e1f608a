"""``benchmarks.efficacy reconstruction``: what an attacker gets back of anonymised faces.

The attacker has the public bundle and own faces: anonymises these, learns to undo it from the pairs, and then
reconstructs what others published, from one release of a photo and from the mean of several.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from runtime.errors import NoFaceError
from runtime.manifest import open_bundle
from runtime.pictures import read_picture
from training.data import prepared_pack
from training.evaluation import quality_of
from training.monitor import fixed_threads

from ..common import as_click_errors, digest_of, pictures_below
from ..schema import write_result
from .contact_sheet import contact_sheet
from .on_lfw import View2, about, anonymiser_options, is_stochastic, strengths_of
from .pictures import Perceptual, perceptual_distances
from .privacy import areas_of, means_of, privacy_of, with_prefix
from .recognition import find_main_face
from .reconstructors import MEAN_FACE, Reconstructor, attack, mean_face, train_reconstructor
from .releases import Releaser
from .shards import in_shards
from .suspicion import finish, suspicions_of

SHARD = 100  # pictures that are measured before they are kept on disk
PUBLISHED = "published"

# By strength, and by name.
Attackers = Mapping[float, Mapping[str, Reconstructor]]


def look_at(
    photo: Path,
    number: int,
    releaser: Releaser,
    attackers: Attackers,
    perceptual: Mapping[str, Perceptual],
) -> dict[str, float] | None:
    """How alike to a clean face are what was published of it and what every attacker makes of that.

    Returns:
        ``STRENGTH/VERSION/AREA/MEASURE``, and ``releases/STRENGTH``, the SSIM of two releases where there are
        two; None where no face is found on the clean picture.
    """
    clean = read_picture(photo).pixels
    face = find_main_face(clean, releaser.detector)
    if face is None:
        return None
    core = areas_of(releaser.bundle.manifest.image_size)["core"]
    row: dict[str, float] = {}
    for strength, by_name in attackers.items():
        found = attack(clean, face.landmarks, by_name, releaser, strength=strength, picture=number)
        first, *others = found.releases
        for version, crop in ({PUBLISHED: first} | found.reconstructed).items():
            row |= with_prefix(f"{strength:g}/{version}", privacy_of(found.source, crop, perceptual))
        if others:
            row[f"releases/{strength:g}"] = quality_of(first[core], others[0][core])["ssim"]
    return row


def measure(
    view: View2,
    releaser: Releaser,
    attackers: Attackers,
    *,
    perceptual: Mapping[str, Perceptual],
    folder: Path,
) -> dict[str, Any]:
    """Lets every attacker have LFW's pictures as they are published.

    Args:
        folder: keeps what was measured; rerun to go on.

    Raises:
        NoFaceError: there is none in any picture.
    """
    told = about("reconstruction", releaser, view)
    depends = {
        **{key: told[key] for key in ("bundle", "jpeg_quality", "seed")},
        "pictures": [photo.stem for photo in view.photos],
        "perceptual": list(perceptual),
        "attackers": {
            f"{strength:g}": {name: [one.releases, one.training] for name, one in by_name.items()}
            for strength, by_name in attackers.items()
        },
    }

    def look(photos: Sequence[Path]) -> Mapping[str, NDArray]:
        looks = [look_at(photo, view.numbers[photo], releaser, attackers, perceptual) for photo in photos]
        rows = [row for row in looks if row is not None]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]} if rows else {}

    with releaser:
        shards = folder / f"pictures-{digest_of(depends)[:12]}"
        arrays = in_shards(view.photos, look, shards, size=SHARD, title="pictures")
    if not arrays:
        raise NoFaceError(f"no face was found in any of {len(view.photos)} pictures")
    found = {}
    alike = [float(values.mean()) for name, values in arrays.items() if name.startswith("releases/")]
    if alike and is_stochastic(releaser):
        found["releases_ssim"] = max(alike)
    return {
        **told,
        "no_face_found": len(view.photos) - len(next(iter(arrays.values()))),
        "strengths": [
            {
                "strength": strength,
                PUBLISHED: means_of(arrays, f"{strength:g}/{PUBLISHED}"),
                "reconstructions": {
                    name: {
                        "releases": attacker.releases,
                        "training": attacker.training,
                        "privacy": means_of(arrays, f"{strength:g}/{name}"),
                    }
                    for name, attacker in by_name.items()
                },
            }
            for strength, by_name in attackers.items()
        ],
        "plausibility": found,
        "suspicions": [asdict(suspicion) for suspicion in suspicions_of(found)],
    }


def check_nobody_in_both(names: Sequence[str], view: View2) -> None:
    """Refuses to measure an attacker on the people that it learned from, as far as names tell.

    Args:
        names: of the attacker's pictures.

    Raises:
        ValueError: a picture is called after somebody of the view, as LFW's are.
    """
    people = {photo.parent.name for photo in view.photos}
    both = sorted(people & {Path(name).stem.rpartition("_")[0] for name in names})
    if both:
        raise ValueError(
            f"expected an attacker's faces of nobody in {view.name}, found pictures of {len(both)} who are, "
            f"e.g. {both[0]}; give --faces a pack of other people"
        )


def table_of(result: dict[str, Any]) -> Table:
    """A row a strength and attacker: how alike the core of the face is to the clean one's."""
    table = Table(title=f"{result['pictures']} pictures of {result['data']}: alike to the clean face")
    table.add_column("strength", justify="right")
    table.add_column("version")
    measures = list(result["strengths"][0][PUBLISHED]["core"])
    for title in measures:
        table.add_column(title, justify="right")
    for measured in result["strengths"]:
        versions = {PUBLISHED: measured[PUBLISHED]} | {
            name: row["privacy"] for name, row in measured["reconstructions"].items()
        }
        for name, areas in versions.items():
            cells = [f"{areas['core'][key].value:.3f}" for key in measures]
            table.add_row(f"{measured['strength']:g}", name, *cells)
    return table


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path))
@anonymiser_options
@click.option(
    "--pairs",
    default=50,
    show_default=True,
    type=click.IntRange(min=1),
    help="Whose pictures are reconstructed: of one person, and as many of two, in each fold.",
)
@click.option(
    "--faces",
    required=True,
    type=click.Path(path_type=Path, exists=True),
    help="The attacker's own: a pack of training faces, as training prepares them.",
)
@click.option(
    "--trained-on", default=8000, show_default=True, type=click.IntRange(min=1), help="Of these faces."
)
@click.option(
    "--releases",
    "counts",
    multiple=True,
    type=click.IntRange(min=1),
    default=(1, 8),
    show_default=True,
    help="Of one photo, which an attacker averages; repeatable.",
)
@click.option(
    "--steps", default=3000, show_default=True, type=click.IntRange(min=1), help="Of each training."
)
@click.option("--minutes", type=float, help="Train no longer than this now.")
@click.option(
    "--sheet-of",
    type=click.Path(path_type=Path, exists=True),
    help="Pictures, of nobody best, to look at what attackers make of: writes a sheet of the first eight "
    "beside --out, as .png.",
)
def command(
    root: Path,
    bundle: Path,
    folder: Path,
    strengths: tuple[float, ...],
    lpips_alex: Path | None,
    lpips_vgg: Path | None,
    quality: int,
    seed: int,
    threads: int | None,
    out: Path,
    pairs: int,
    faces: Path,
    trained_on: int,
    counts: tuple[int, ...],
    steps: int,
    minutes: float | None,
    sheet_of: Path | None,
) -> None:
    """Trains reconstructors with the public bundle, and measures what they bring back."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("benchmarks").setLevel(logging.INFO)
    fixed_threads(threads)
    began = time.monotonic()

    def minutes_left() -> float | None:
        return None if minutes is None else minutes - (time.monotonic() - began) / 60

    with as_click_errors():
        releaser = Releaser(open_bundle(bundle), quality=quality, seed=seed, threads=threads)
        view = View2.read(root, pairs)
        pack = prepared_pack(faces, releaser.bundle.manifest.image_size).first(trained_on)
        check_nobody_in_both(pack.names, view)
        own = pack.crops
        attackers: dict[float, dict[str, Reconstructor]] = {}
        for strength in strengths_of(releaser, strengths):
            attackers[strength] = {MEAN_FACE: mean_face(own)}
            for count in counts:
                trained = train_reconstructor(
                    releaser.bundle,
                    own,
                    folder,
                    strength=strength,
                    releases=count,
                    steps=steps,
                    quality=quality,
                    seed=seed,
                    threads=threads,
                    minutes_left=minutes_left,
                )
                name = f"{count} release{'s' if count > 1 else ''}"
                if trained is None:
                    click.echo(f"{name} at {strength:g}: not all of {steps} steps; run the same to go on")
                    return
                attackers[strength][name] = trained
        if sheet_of is not None:
            by_name = attackers[max(attackers)]
            sheet = contact_sheet(pictures_below(sheet_of)[:8], releaser, by_name, strength=max(attackers))
            out.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(sheet).save(out.with_suffix(".png"))
        result = measure(
            view,
            releaser,
            attackers,
            perceptual=perceptual_distances(lpips_alex, lpips_vgg),
            folder=folder,
        )
    result |= {"faces": faces.name}
    Console(width=150).print(table_of(result))
    write_result(result, out)
    finish(result)
