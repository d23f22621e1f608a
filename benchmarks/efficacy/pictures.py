"""``benchmarks.efficacy pictures``: protection and erasure, measured on saved files.

Every picture is protected, saved as JPEG, read again, erased, and saved again. Faces are then found anew
on the saved files and compared, recogniser by recogniser, with the target and with the owner's own
unprotected picture.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from runtime.errors import NoFaceError
from training.batches import to_network
from training.evaluation import mean_of, quality_of
from training.evaluation.crops import PAIRS
from training.evaluation.frechet import Inception, frechet_distances
from training.evaluation.statistics import percent
from training.evaluation.table import RATES
from training.perceptual import Lpips

from ..common import as_click_errors, names_below
from ..schema import write_result
from .protocol import Faces, Laboratory, chosen_pictures, laboratory_options, lost_faces
from .published import Pixels, decode
from .suspicion import finish

Perceptual = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Features = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True)
class Sample:
    """One picture's embeddings by version and recogniser, its picture quality, and its features for FID."""

    embeddings: dict[str, Faces]
    quality: dict[str, dict[str, float]]
    features: dict[str, NDArray[np.float32]] | None
    erased: bool  # False where the authority found no face on the published file


def run_picture(
    path: Path,
    laboratory: Laboratory,
    perceptual: Mapping[str, Perceptual],
    inception: Features | None,
    keep: Path | None,
) -> Sample | None:
    """Protects, saves, erases, saves and measures one picture; None where its face is not found."""
    made = laboratory.protect(path)
    if made is None:
        return None
    clean, protected_file = made
    protected = decode(protected_file)
    restored_file = laboratory.publisher.erase(protected)
    restored = decode(restored_file) if restored_file else None
    if keep:
        for version, data in {"protected": protected_file, "restored": restored_file}.items():
            if data:
                (keep / f"{version}_{path.stem}.jpg").write_bytes(data)
    shown = {"clean": clean, "protected": protected, "restored": restored}
    versions = {
        "clean": clean,
        "edited": laboratory.publisher.edit(clean),
        "protected": protected,
        # What could not be erased stays as it was published.
        "restored": protected if restored is None else restored,
    }
    pairs = {title: (versions[a], versions[b]) for title, (a, b) in PAIRS.items()}
    return Sample(
        {version: laboratory.embed(pixels) for version, pixels in shown.items()},
        {title: quality_and_distances(perceptual, *pair) for title, pair in pairs.items()},
        {name: inception(pixels[None])[0] for name, pixels in versions.items()} if inception else None,
        erased=restored is not None,
    )


def perceptual_distances(alex: Path | None, vgg: Path | None) -> dict[str, Perceptual]:
    """LPIPS by the networks whose weights there are, by the name that results have for it."""
    trunks = {"alex": alex, "vgg": vgg}
    return {f"lpips_{net}": Lpips(net, trunk) for net, trunk in trunks.items() if trunk}


@torch.no_grad()
def quality_and_distances(
    perceptual: Mapping[str, Perceptual], source: Pixels, other: Pixels
) -> dict[str, float]:
    """``quality_of`` two pictures ``(H, W, 3)``, and every perceptual distance by its name."""
    return quality_of(source, other) | {
        name: float(distance(to_network(other[None]), to_network(source[None])))
        for name, distance in perceptual.items()
    }


def measure(
    paths: Sequence[Path],
    laboratory: Laboratory,
    *,
    perceptual: Mapping[str, Perceptual],
    inception: Features | None = None,
    keep: Path | None = None,
) -> dict[str, Any]:
    """Runs the whole protocol over pictures; see ``command`` for the arguments.

    Raises:
        NoFaceError: there is none in the target's picture, or in any of the pictures.
    """
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
    with laboratory:
        found = [
            run_picture(path, laboratory, perceptual, inception, keep) for path in track(paths, "pictures")
        ]
    samples = [sample for sample in found if sample is not None]
    if not samples:
        raise NoFaceError(f"no face was found in any of {len(paths)} pictures")
    embeddings = [sample.embeddings for sample in samples]
    quality = {
        pair: {
            measure: mean_of(np.array([sample.quality[pair][measure] for sample in samples]))
            for measure in samples[0].quality[pair]
        }
        for pair in samples[0].quality
    }
    changed = quality["protected against clean"]
    figures = {"protected_ssim": changed["ssim"].value}
    if "lpips_alex" in changed:
        figures["protected_lpips"] = changed["lpips_alex"].value
    return {
        **laboratory.about("efficacy"),
        "pictures": len(paths),
        "no_face_found": len(found) - len(samples),
        "not_erased": sum(not sample.erased for sample in samples),
        "lost": lost_faces(embeddings),
        "quality": quality,
        "fid": frechet_distances(_features(samples), PAIRS),
        "recognizers": laboratory.summarise(embeddings),
        **laboratory.plausibility(embeddings, **figures),
    }


def _features(samples: Sequence[Sample]) -> dict[str, NDArray[np.float32]] | None:
    """A row a picture, by version; None where no network looked."""
    rows = [sample.features for sample in samples if sample.features is not None]
    return {version: np.stack([row[version] for row in rows]) for version in rows[0]} if rows else None


def table_of(result: dict[str, Any]) -> Table:
    """The rates by recogniser, in percent, as a table."""
    table = Table(title=f"{result['pictures']} pictures, saved as JPEG q{result['jpeg_quality']}")
    table.add_column("recogniser")
    for name in (*RATES, "cos target", "cos owner", "cos owner restored"):
        table.add_column(name, justify="right")

    for name, row in result["recognizers"].items():
        cosine = {version: row["cosine_to_target"][version].value for version in ("clean", "protected")}
        table.add_row(
            f"{name} ({row['role']})",
            *(percent(row[key]) for key in RATES.values()),
            f"{cosine['clean']:.3f} -> {cosine['protected']:.3f}",
            f"{row['cosine_to_owner']['protected'].value:.3f}",
            f"{row['cosine_to_owner']['restored'].value:.3f}",
        )
    return table


@click.command()
@click.option(
    "--images", required=True, type=click.Path(path_type=Path, exists=True), help="Or CelebA's root."
)
@click.option("--count", default=100, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--lpips-alex", type=click.Path(path_type=Path, exists=True), help="AlexNet's, for LPIPS.")
@click.option("--lpips-vgg", type=click.Path(path_type=Path, exists=True), help="VGG-16's, likewise.")
@click.option("--inception", type=click.Path(path_type=Path, exists=True), help="Its weights, for FID.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep the saved pictures in this folder.")
@click.option("--out", required=True, type=click.Path(path_type=Path))
@laboratory_options
def command(
    images: Path,
    count: int,
    seed: int,
    lpips_alex: Path | None,
    lpips_vgg: Path | None,
    inception: Path | None,
    keep: Path | None,
    out: Path,
    **laboratory: Any,
) -> None:
    """Attack and erasure success rates of a bundle on pictures and recognisers."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    with as_click_errors():
        paths, data = chosen_pictures(images, count, seed)
        result = measure(
            paths,
            Laboratory(**laboratory),
            perceptual=perceptual_distances(lpips_alex, lpips_vgg),
            inception=Inception(inception) if inception else None,
            keep=keep,
        )
    result |= {"seed": seed, "data": data, "picture_list": names_below(images, paths)}
    Console(width=150).print(table_of(result))
    write_result(result, out)
    finish(result)
