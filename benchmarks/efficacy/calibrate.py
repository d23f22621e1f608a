"""``benchmarks.efficacy calibrate``: thresholds of recognisers at fixed false accept rates on LFW.

One photo a person, every pair an impostor pair, aligned by the project's own detector and geometry.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from rich.progress import track

from runtime.detection import FaceDetector
from runtime.manifest import open_bundle
from runtime.pictures import read_picture
from runtime.shipped import default_bundle
from training.evaluation import Embedder, load_recognizers

from ..common import draw, environment, names_below
from ..schema import write_result
from .recognition import VerifyRecognizer, embed_main_face
from .verification import impostor_thresholds


@click.command()
@click.option("--lfw", required=True, type=click.Path(path_type=Path, exists=True), help="A folder a person.")
@click.option("--recognizers", "cards", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--bundle", type=click.Path(path_type=Path), help="For its detector; default: the shipped one.")
@click.option("--people", default=2000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", type=int, help="CPU threads of each network.")
@click.option("--out", required=True, type=click.Path(path_type=Path))
def command(
    lfw: Path, cards: Path, bundle: Path | None, people: int, seed: int, threads: int | None, out: Path
) -> None:
    """Calibrates every recogniser of a cards file, and the one of ``erasablemask verify``."""
    folders = sorted(path for path in lfw.iterdir() if path.is_dir())
    photos = [sorted(folder.glob("*.jpg"))[0] for folder in draw(folders, people, seed)]
    recognizers: list[Embedder] = [*load_recognizers(cards, threads=threads), VerifyRecognizer()]
    collected: dict[str, list[np.ndarray]] = {r.name: [] for r in recognizers}
    opened = open_bundle(bundle or default_bundle("public"))
    with FaceDetector.from_bundle(opened, threads=threads) as detector:
        for photo in track(photos, "embedding"):
            embeddings = embed_main_face(read_picture(photo).pixels, detector, recognizers)
            for name, embedding in (embeddings or {}).items():
                collected[name].append(embedding)
    calibrated = {}
    for recognizer in recognizers:
        matrix = np.stack(collected[recognizer.name])
        threshold, pairs = impostor_thresholds(matrix)
        calibrated[recognizer.name] = {"sha256": recognizer.sha256, "threshold": threshold}
        click.echo(
            f"{recognizer.name}: " + ", ".join(f"FAR {far} {cosine:.4f}" for far, cosine in threshold.items())
        )
    result = {
        "benchmark": "calibrate",
        "environment": environment(),
        "data": lfw.name,
        "pictures": len(matrix),
        "pairs": pairs,
        "seed": seed,
        "picture_list": names_below(lfw, photos),
        "recognizers": calibrated,
    }
    write_result(result, out)
