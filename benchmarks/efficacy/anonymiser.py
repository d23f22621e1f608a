"""``benchmarks.efficacy anonymiser``: do machines still know an anonymised face, and how alike is it?

Every picture of LFW's View 2 is anonymised with noise of its own and saved as JPEG. Recognisers then tell the
pairs as strangers would, faces found anew on every file: both pictures clean, both anonymised, and an
anonymised one beside a clean one. Several strengths make the curve of recognition against privacy.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from runtime.errors import NoFaceError
from runtime.manifest import open_bundle
from runtime.pictures import read_picture
from training.evaluation import FAR_ATTACK, Embedding, load_recognizers, mean_of, share_of
from training.evaluation.recognition import MeasuredEmbedder
from training.monitor import fixed_threads

from ..common import as_click_errors, digest_of
from ..schema import write_result
from .on_lfw import View2, about, anonymiser_options, strengths_of
from .pictures import Perceptual, perceptual_distances
from .privacy import aligned, means_of, privacy_of, with_prefix
from .recognition import VerifyRecognizer, embed_main_face, find_main_face
from .releases import Releaser
from .shards import in_shards
from .suspicion import check_held_out, finish, suspicions_of
from .verification import pair_cosines, view_2_accuracy

SHARD = 100  # pictures that are measured before they are kept on disk
CLEAN = "clean"
COMPARISONS = ("clean-clean", "anonymised-anonymised", "anonymised-clean")


def look_at(
    photo: Path,
    number: int,
    releaser: Releaser,
    recognizers: Sequence[MeasuredEmbedder],
    strengths: Sequence[float],
    perceptual: Mapping[str, Perceptual],
) -> dict[str, Any] | None:
    """One picture's embeddings and privacy by version; None where no face is found on the clean one.

    Returns:
        ``photo``; ``seen/VERSION/RECOGNISER``, NaN where the face is not found again; and
        ``privacy/VERSION/AREA/MEASURE``. Both faces are aligned by the clean one's landmarks.
    """
    clean = read_picture(photo).pixels
    face = find_main_face(clean, releaser.detector)
    if face is None:
        return None
    size = releaser.bundle.manifest.image_size
    source = aligned(clean, face.landmarks, size)
    own = {r.name: r.embed(clean, face.landmarks) for r in recognizers}
    row = {"photo": photo.stem, **with_prefix(f"seen/{CLEAN}", own)}
    lost = {name: np.full_like(embedding, np.nan) for name, embedding in own.items()}
    # All before any is looked at: the detector then looks at the clean picture once.
    releases = [releaser.release(clean, strength=strength, picture=number) for strength in strengths]
    for strength, published in zip(strengths, releases, strict=True):
        version = f"{strength:g}"
        seen = embed_main_face(published, releaser.detector, recognizers) or lost
        privacy = privacy_of(source, aligned(published, face.landmarks, size), perceptual)
        row |= with_prefix(f"seen/{version}", seen) | with_prefix(f"privacy/{version}", privacy)
    return row


def rows_of(
    view: View2,
    arrays: Mapping[str, NDArray],
    version: str,
    recognizers: Sequence[MeasuredEmbedder],
) -> dict[str, Any]:
    """How well each recogniser tells the pairs, and whether it links a face to its own clean picture.

    A face that is lost is told wrong, and linked to nothing. Linked is what passes at the cosine that one in
    a hundred of the view's clean pairs of two people passes.
    """
    by_stem = {photo.stem: photo for photo in view.photos}
    photos = [by_stem[stem] for stem in arrays["photo"].tolist()]
    rows = {}
    for recognizer in recognizers:
        clean, shown = (arrays[f"seen/{which}/{recognizer.name}"] for which in (CLEAN, version))
        own: dict[Path, Embedding] = dict(zip(photos, clean, strict=True))
        seen: dict[Path, Embedding] = dict(zip(photos, shown, strict=True))
        cosines, same = pair_cosines([pair for fold in view.folds for pair in fold], own, own)
        to_source = (clean * shown).sum(1)
        told = (
            view_2_accuracy(view.folds, own),
            view_2_accuracy(view.folds, seen),
            view_2_accuracy(view.folds, seen, own),
        )
        rows[recognizer.name] = {
            "role": recognizer.card.role,
            "accuracy": dict(zip(COMPARISONS, told, strict=True)),
            "linked": share_of(to_source > np.quantile(cosines[~same], 1 - FAR_ATTACK)),
            "cosine_to_source": mean_of(to_source[~np.isnan(to_source)]),
        }
    return rows


def measure(
    view: View2,
    releaser: Releaser,
    recognizers: Sequence[MeasuredEmbedder],
    *,
    strengths: Sequence[float],
    perceptual: Mapping[str, Perceptual],
    folder: Path,
) -> dict[str, Any]:
    """Runs the protocol over LFW's pictures; see ``command`` for the arguments.

    Raises:
        NoFaceError: there is none in any picture.
        ValueError: a black-box recogniser is one that the bundle was trained against.
    """
    unknown = check_held_out(recognizers, releaser.bundle.manifest.training)
    told = about("anonymiser", releaser, view)
    depends = {
        **{key: told[key] for key in ("bundle", "jpeg_quality", "seed")},
        "pictures": [photo.stem for photo in view.photos],
        "recognizers": [r.sha256 for r in recognizers],
        "perceptual": list(perceptual),
        "strengths": list(strengths),
    }

    def look(photos: Sequence[Path]) -> Mapping[str, NDArray]:
        looks = [
            look_at(photo, view.numbers[photo], releaser, recognizers, strengths, perceptual)
            for photo in photos
        ]
        rows = [row for row in looks if row is not None]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]} if rows else {}

    with releaser:
        shards = folder / f"pictures-{digest_of(depends)[:12]}"
        arrays = in_shards(view.photos, look, shards, size=SHARD, title="pictures")
    if not arrays:
        raise NoFaceError(f"no face was found in any of {len(view.photos)} pictures")
    measured: list[dict[str, Any]] = [
        {
            "strength": strength,
            "lost": int(np.isnan(arrays[f"seen/{strength:g}/{recognizers[0].name}"]).any(1).sum()),
            "recognizers": rows_of(view, arrays, f"{strength:g}", recognizers),
            "privacy": means_of(arrays, f"privacy/{strength:g}"),
        }
        for strength in strengths
    ]
    found = {"anonymised_ssim": max(row["privacy"]["core"]["ssim"].value for row in measured)}
    return {
        **told,
        "no_face_found": len(view.photos) - len(arrays["photo"]),
        "strengths": measured,
        "plausibility": found,
        "suspicions": [asdict(suspicion) for suspicion in (*unknown, *suspicions_of(found))],
    }


def table_of(result: dict[str, Any]) -> Table:
    """A row a strength and recogniser: how many pairs in a hundred are told right."""
    table = Table(
        title=f"{result['pairs']} pairs of {result['data']}, saved as JPEG q{result['jpeg_quality']}: told "
        "right, percent"
    )
    for title in ("strength", "recogniser", *COMPARISONS, "linked", "SSIM", "PSNR, dB"):
        table.add_column(title, justify="left" if title == "recogniser" else "right")
    for measured in result["strengths"]:
        rows = measured["recognizers"]
        core = measured["privacy"]["core"]
        alike = f"{core['ssim'].value:.3f}", f"{core['psnr'].value:.1f}"
        for name, row in rows.items():
            told = [f"{100 * row['accuracy'][which].value:.2f}" for which in COMPARISONS]
            linked = f"{100 * row['linked'].value:.1f}"
            table.add_row(f"{measured['strength']:g}", f"{name} ({row['role']})", *told, linked, *alike)
        for role in dict.fromkeys(row["role"] for row in rows.values()):
            of_role = [row["accuracy"] for row in rows.values() if row["role"] == role]
            means = [f"{100 * fmean(told[which].value for told in of_role):.2f}" for which in COMPARISONS]
            table.add_row("", f"mean, {role}", *means)
    return table


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path))
@anonymiser_options
@click.option(
    "--recognizers",
    "cards",
    type=click.Path(path_type=Path, exists=True),
    help="Cards; default: the one of verify, alone.",
)
@click.option(
    "--pairs",
    type=click.IntRange(min=1),
    help="Of one person, and as many of two, in each fold; default: all, 300.",
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
    cards: Path | None,
    pairs: int | None,
) -> None:
    """Recognition of anonymised faces on LFW's View 2, and how alike they look."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    fixed_threads(threads)
    with as_click_errors():
        releaser = Releaser(open_bundle(bundle), quality=quality, seed=seed, threads=threads)
        result = measure(
            View2.read(root, pairs),
            releaser,
            load_recognizers(cards, threads=threads) if cards else [VerifyRecognizer()],
            strengths=strengths_of(releaser, strengths),
            perceptual=perceptual_distances(lpips_alex, lpips_vgg),
            folder=folder,
        )
    Console(width=150).print(table_of(result))
    write_result(result, out)
    finish(result)
