"""``python -m benchmarks.efficacy``: protection and erasure, measured on saved files.

Every picture is protected, saved as JPEG, read again, erased, and saved again. Faces are then found anew
on the saved files and compared, recogniser by recogniser, with the target and with the owner's own
unprotected picture.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from runtime.authority import load_secret, unseal_model
from runtime.detection import FaceDetector
from runtime.errors import NoFaceError
from runtime.manifest import open_bundle
from runtime.pictures import read_picture
from runtime.pipeline import Eraser, Protector
from runtime.shipped import default_bundle

from .common import Estimate, draw, environment, mean_of, pictures_below, share_of, write_json
from .recognition import (
    Embedder,
    Embedding,
    Thresholds,
    embed_main_face,
    load_recognizers,
    read_thresholds,
)

VERSIONS = ("clean", "protected", "restored")
FAR_ATTACK = 0.01  # tau_1, Eq. 17
FAR_ERASURE = 0.1  # tau_2, Eq. 18

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One picture's embeddings by version and recogniser, and its picture quality."""

    embeddings: dict[str, dict[str, Embedding] | None]
    quality: dict[str, dict[str, float]]
    erased: bool  # False where the authority found no face on the published file


def quality_of(source: NDArray[np.uint8], other: NDArray[np.uint8]) -> dict[str, float]:
    """L1 and MSE on [0, 1], PSNR in dB, SSIM, over the whole picture."""
    difference = (other.astype(np.float64) - source) / 255
    return {
        "l1": float(np.abs(difference).mean()),
        "mse": float((difference**2).mean()),
        "psnr": float(peak_signal_noise_ratio(source, other)),
        "ssim": float(structural_similarity(source, other, channel_axis=2)),
    }


def run_picture(
    path: Path,
    folder: Path,
    quality: int,
    protector: Protector,
    eraser: Eraser,
    detector: FaceDetector,
    recognizers: Sequence[Embedder],
) -> Sample | None:
    """Protects, saves, erases, saves and measures one picture; None where its face is not found."""
    clean = read_picture(path).pixels
    try:
        protected = _save(protector.protect(clean).pixels, folder / f"protected_{path.stem}.jpg", quality)
    except NoFaceError:
        logger.warning("no face was found in %s", path.name)
        return None
    versions: dict[str, NDArray[np.uint8]] = {"clean": clean, "protected": protected}
    try:
        versions["restored"] = _save(
            eraser.erase(protected).pixels, folder / f"restored_{path.stem}.jpg", quality
        )
    except NoFaceError:
        versions["restored"] = protected  # the published file stays as it is
    return Sample(
        {name: embed_main_face(pixels, detector, recognizers) for name, pixels in versions.items()},
        {name: quality_of(clean, versions[name]) for name in ("protected", "restored")},
        erased=versions["restored"] is not protected,
    )


def _save(pixels: NDArray[np.uint8], path: Path, quality: int) -> NDArray[np.uint8]:
    Image.fromarray(pixels).save(path, quality=quality)
    return read_picture(path).pixels


def summarise(
    samples: Sequence[Sample], roles: dict[str, str], target: dict[str, Embedding], thresholds: Thresholds
) -> dict[str, Any]:
    """Rates and mean cosines by recogniser.

    A face that is not found again on a saved file never counts as a success: not of the attack, not of the
    erasure, not of the owner's acceptance. It has no cosine, so means and the dodging rate leave it out.

    Args:
        roles: white-box or black-box, by recogniser.
        target: the target's embedding by recogniser.
    """
    result = {}
    for name, role in roles.items():
        attack, erasure = thresholds.at(name, FAR_ATTACK), thresholds.at(name, FAR_ERASURE)
        to_target = {version: _cosines(samples, name, version, target) for version in VERSIONS}
        to_owner = {version: _cosines(samples, name, version, None) for version in VERSIONS[1:]}
        result[name] = {
            "role": role,
            "threshold": {str(FAR_ATTACK): attack, str(FAR_ERASURE): erasure},
            "cosine_to_target": {v: mean_of(c[~np.isnan(c)]) for v, c in to_target.items()},
            "cosine_to_owner": {v: mean_of(c[~np.isnan(c)]) for v, c in to_owner.items()},
            # Comparisons with NaN are false: a lost face is no success.
            "asr_clean": share_of(to_target["clean"] > attack),
            "asr": share_of(to_target["protected"] > attack),
            "esr": share_of(to_target["restored"] < erasure),
            "dodging": share_of((owner := to_owner["protected"])[~np.isnan(owner)] < attack),
            "owner_accepted_restored": share_of(to_owner["restored"] > attack),
        }
    return result


def _cosines(
    samples: Sequence[Sample], name: str, version: str, target: dict[str, Embedding] | None
) -> NDArray[np.float64]:
    """Cosine of each sample's face to the target, or to its own clean picture; NaN where a face is lost."""
    cosines = []
    for sample in samples:
        face, other = sample.embeddings[version], target or sample.embeddings["clean"]
        cosines.append(float(face[name] @ other[name]) if face and other else np.nan)
    return np.array(cosines)


def measure(
    paths: Sequence[Path],
    bundle: Path,
    key: Path,
    cards: Path,
    target_picture: Path,
    thresholds: Thresholds,
    *,
    quality: int,
    threads: int | None = None,
    keep: Path | None = None,
) -> dict[str, Any]:
    """Runs the whole protocol over pictures; see ``main`` for the arguments."""
    recognizers = load_recognizers(cards, threads=threads)
    thresholds.check(recognizers)
    public, authority = open_bundle(bundle / "public"), open_bundle(bundle / "authority")
    restorer = unseal_model(authority, load_secret(key_file=key))
    with (
        tempfile.TemporaryDirectory() as temporary,
        FaceDetector.from_bundle(public, threads=threads) as detector,
        Protector(public, threads=threads) as protector,
        Eraser(authority, restorer, threads=threads) as eraser,
    ):
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        target = embed_main_face(read_picture(target_picture).pixels, detector, recognizers)
        if target is None:
            raise click.ClickException(f"no face was found in the target's picture {target_picture}")
        found = [
            run_picture(path, folder, quality, protector, eraser, detector, recognizers)
            for path in track(paths, "pictures")
        ]
    samples = [sample for sample in found if sample is not None]
    return {
        "benchmark": "efficacy",
        "environment": environment(),
        "bundle": {
            "name": public.manifest.name,
            "precision": public.manifest.precision,
            "sha256": {
                "protect": public.manifest.models["protect"].sha256,
                "restore": authority.manifest.models["restore"].sha256,
            },
        },
        "target": target_picture.name,
        "jpeg_quality": quality,
        "pictures": len(paths),
        "no_face_found": len(found) - len(samples),
        "not_erased": sum(not sample.erased for sample in samples),
        "lost": {version: sum(not sample.embeddings[version] for sample in samples) for version in VERSIONS},
        "calibration": thresholds.source,
        "quality": {
            version: {
                metric: mean_of(np.array([sample.quality[version][metric] for sample in samples]))
                for metric in ("l1", "mse", "psnr", "ssim")
            }
            for version in ("protected", "restored")
        },
        "recognizers": summarise(samples, {r.name: r.card.role for r in recognizers}, target, thresholds),
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

    def percent(estimate: Estimate) -> str:
        return f"{100 * estimate.value:.0f} ({100 * estimate.low:.0f}-{100 * estimate.high:.0f})"

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
    from training.data import read_celeba
    from training.data.celeba import TEST

    first: dict[int, Path] = {}
    for record in read_celeba(root, TEST):
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
@click.option("--threads", type=int, help="CPU threads of each network.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep the saved pictures in this folder.")
@click.option("--out", required=True, type=click.Path(path_type=Path))
def main(images, cards, target, thresholds, bundle, key, count, seed, quality, threads, keep, out) -> None:
    """Attack and erasure success rates of a bundle on pictures and recognisers."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    is_celeba = (images / "list_eval_partition.txt").exists()
    paths = draw(celeba_test_pictures(images) if is_celeba else pictures_below(images), count, seed)
    bundle = bundle or default_bundle("public").parent
    result = measure(
        paths,
        bundle,
        key or bundle / "authority" / "demo.key",
        cards,
        target,
        read_thresholds(thresholds),
        quality=quality,
        threads=threads,
        keep=keep,
    )
    result |= {"seed": seed, "data": f"{images.name}, test partition" if is_celeba else images.name}
    Console(width=150).print(table_of(result))
    write_json(result, out)


if __name__ == "__main__":
    main()
