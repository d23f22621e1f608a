"""``python -m benchmarks.efficacy``: protection and erasure, measured on saved files.

Every picture is protected, saved as JPEG, read again, erased, and saved again. Faces are then found anew
on the saved files and compared, recogniser by recogniser, with the target and with the owner's own
unprotected picture.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
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
from runtime.pictures import read_picture
from training.batches import to_network
from training.evaluation import (
    FAR_ATTACK,
    FAR_ERASURE,
    Embedder,
    Embedding,
    Thresholds,
    attack_rates,
    load_recognizers,
    mean_of,
    quality_of,
    read_thresholds,
)
from training.evaluation.rates import VERSIONS
from training.evaluation.statistics import percent, write_json
from training.perceptual import Lpips

from .common import draw, environment, pictures_below
from .published import Pixels, Publisher, decode
from .recognition import embed_main_face

logger = logging.getLogger(__name__)

# Embeddings of one face by recogniser; None where no face was found.
Faces = dict[str, Embedding] | None
Perceptual = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Sample:
    """One picture's embeddings by version and recogniser, and its picture quality."""

    embeddings: dict[str, Faces]
    quality: dict[str, dict[str, float]]
    erased: bool  # False where the authority found no face on the published file


def run_picture(
    path: Path,
    publisher: Publisher,
    recognizers: Sequence[Embedder],
    perceptual: dict[str, Perceptual],
    keep: Path | None,
) -> Sample | None:
    """Protects, saves, erases, saves and measures one picture; None where its face is not found."""
    clean = read_picture(path).pixels
    try:
        files = {"protected": publisher.protect(clean)}
    except NoFaceError:
        logger.warning("no face was found in %s", path.name)
        return None
    protected = decode(files["protected"])
    restored_file = publisher.erase(protected)
    if restored_file is not None:
        files["restored"] = restored_file
    shown = {"clean": clean, **{version: decode(data) for version, data in files.items()}}
    if keep:
        for version, data in files.items():
            (keep / f"{version}_{path.stem}.jpg").write_bytes(data)
    pairs = {
        "protected against clean": (clean, protected),
        "protected against edited": (publisher.edit(clean), protected),
        "restored against clean": (clean, shown.get("restored", protected)),
    }
    return Sample(
        {
            version: embed_main_face(shown[version], publisher.detector, recognizers)
            if version in shown
            else None
            for version in VERSIONS
        },
        {name: quality_of(*pair) | _distances(perceptual, *pair) for name, pair in pairs.items()},
        erased=restored_file is not None,
    )


@torch.no_grad()
def _distances(perceptual: dict[str, Perceptual], source: Pixels, other: Pixels) -> dict[str, float]:
    return {
        name: float(distance(to_network(other[None]), to_network(source[None])))
        for name, distance in perceptual.items()
    }


def summarise(
    pictures: Sequence[dict[str, Faces]],
    roles: dict[str, str],
    target: dict[str, Embedding],
    thresholds: Thresholds,
) -> dict[str, Any]:
    """Rates and mean cosines by recogniser; see ``training.evaluation.rates``.

    Args:
        pictures: the face's embeddings by version; None where it was not found.
        roles: white-box or black-box, by recogniser.
        target: the target's embedding by recogniser.
    """
    result = {}
    for name, role in roles.items():
        attack, erasure = thresholds.at(name, FAR_ATTACK), thresholds.at(name, FAR_ERASURE)
        result[name] = {
            "role": role,
            "threshold": {str(FAR_ATTACK): attack, str(FAR_ERASURE): erasure},
            **attack_rates(
                {v: matrix([p[v] for p in pictures], name, len(target[name])) for v in VERSIONS},
                target[name],
                attack_threshold=attack,
                erasure_threshold=erasure,
            ),
        }
    return result


def matrix(faces: Sequence[Faces], name: str, size: int) -> NDArray[np.floating]:
    """``(N, d)`` embeddings of one recogniser; NaN where no face was found."""
    lost = np.full(size, np.nan)
    return np.stack([lost if face is None else face[name] for face in faces])


def measure(
    paths: Sequence[Path],
    publisher: Publisher,
    cards: Path,
    target_picture: Path,
    thresholds: Thresholds,
    *,
    perceptual: dict[str, Perceptual],
    keep: Path | None = None,
) -> dict[str, Any]:
    """Runs the whole protocol over pictures; see ``main`` for the arguments."""
    recognizers = load_recognizers(cards, threads=publisher.threads)
    thresholds.check(recognizers)
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
    with publisher:
        target = embed_main_face(read_picture(target_picture).pixels, publisher.detector, recognizers)
        if target is None:
            raise click.ClickException(f"no face was found in the target's picture {target_picture}")
        found = [
            run_picture(path, publisher, recognizers, perceptual, keep) for path in track(paths, "pictures")
        ]
    samples = [sample for sample in found if sample is not None]
    if not samples:
        raise click.ClickException(f"no face was found in any of {len(paths)} pictures")
    return {
        "benchmark": "efficacy",
        "environment": environment(),
        "bundle": publisher.about,
        "target": target_picture.name,
        "jpeg_quality": publisher.quality,
        "pictures": len(paths),
        "no_face_found": len(found) - len(samples),
        "not_erased": sum(not sample.erased for sample in samples),
        "lost": {version: sum(not sample.embeddings[version] for sample in samples) for version in VERSIONS},
        "calibration": thresholds.source,
        "quality": {
            pair: {
                measure: mean_of(np.array([sample.quality[pair][measure] for sample in samples]))
                for measure in samples[0].quality[pair]
            }
            for pair in samples[0].quality
        },
        "recognizers": summarise(
            [sample.embeddings for sample in samples],
            {r.name: r.card.role for r in recognizers},
            target,
            thresholds,
        ),
    }


def table_of(result: dict[str, Any]) -> Table:
    """The rates by recogniser, in percent, as a table."""
    table = Table(title=f"{result['pictures']} pictures, saved as JPEG q{result['jpeg_quality']}")
    table.add_column("recogniser")
    columns = {
        "ASR clean": "asr_clean",
        "ASR": "asr",
        "ESR": "esr",
        "dodging": "dodging",
        "owner, restored": "owner_accepted_restored",
    }
    for name in (*columns, "cos target", "cos owner", "cos owner restored"):
        table.add_column(name, justify="right")

    for name, row in result["recognizers"].items():
        cosine = {version: row["cosine_to_target"][version].value for version in ("clean", "protected")}
        table.add_row(
            f"{name} ({row['role']})",
            *(percent(row[key]) for key in columns.values()),
            f"{cosine['clean']:.3f} -> {cosine['protected']:.3f}",
            f"{row['cosine_to_owner']['protected'].value:.3f}",
            f"{row['cosine_to_owner']['restored'].value:.3f}",
        )
    return table


def celeba_test_pictures(root: Path) -> list[Path]:
    """One picture of every person in CelebA's test partition: the first by name."""
    from training.data import Split, read_celeba

    first: dict[int, Path] = {}
    for record in read_celeba(root, Split.TEST):
        first.setdefault(record.identity, record.path)
    return list(first.values())


@click.command()
@click.option(
    "--images", required=True, type=click.Path(path_type=Path, exists=True), help="Or CelebA's root."
)
@click.option("--recognizers", "cards", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--target", required=True, type=click.Path(path_type=Path, exists=True), help="Its picture.")
@click.option("--thresholds", required=True, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--bundle", type=click.Path(path_type=Path), help="With public/ and authority/; default: shipped."
)
@click.option("--key", type=click.Path(path_type=Path), help="Default: the demo key of the bundle.")
@click.option("--count", default=100, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--quality", default=95, show_default=True, help="JPEG quality of the saved files.")
@click.option("--lpips-alex", type=click.Path(path_type=Path, exists=True), help="AlexNet's, for LPIPS.")
@click.option("--lpips-vgg", type=click.Path(path_type=Path, exists=True), help="VGG-16's, likewise.")
@click.option("--threads", type=int, help="CPU threads of each network.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep the saved pictures in this folder.")
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
    lpips_alex: Path | None,
    lpips_vgg: Path | None,
    threads: int | None,
    keep: Path | None,
    out: Path,
) -> None:
    """Attack and erasure success rates of a bundle on pictures and recognisers."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    is_celeba = (images / "list_eval_partition.txt").exists()
    paths = draw(celeba_test_pictures(images) if is_celeba else pictures_below(images), count, seed)
    trunks = {"alex": lpips_alex, "vgg": lpips_vgg}
    result = measure(
        paths,
        Publisher(bundle, key, quality=quality, threads=threads),
        cards,
        target,
        read_thresholds(thresholds),
        perceptual={f"lpips_{net}": Lpips(net, trunk) for net, trunk in trunks.items() if trunk},
        keep=keep,
    )
    result |= {"seed": seed, "data": f"{images.name}, test partition" if is_celeba else images.name}
    Console(width=150).print(table_of(result))
    write_json(result, out)


if __name__ == "__main__":
    main()
