"""``python -m benchmarks.calibrate``: thresholds of recognisers at fixed false accept rates on LFW.

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

from .common import draw, environment, write_json
from .recognition import FARS, embed_main_face, load_recognizers


@click.command()
@click.option("--lfw", required=True, type=click.Path(path_type=Path, exists=True), help="A folder a person.")
@click.option("--recognizers", "cards", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--bundle", type=click.Path(path_type=Path), help="For its detector; default: the shipped one.")
@click.option("--people", default=2000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", type=int, help="CPU threads of each network.")
@click.option("--out", required=True, type=click.Path(path_type=Path))
def main(
    lfw: Path, cards: Path, bundle: Path | None, people: int, seed: int, threads: int | None, out: Path
) -> None:
    """Calibrates every recogniser of a cards file."""
    folders = sorted(path for path in lfw.iterdir() if path.is_dir())
    photos = [sorted(folder.glob("*.jpg"))[0] for folder in draw(folders, people, seed)]
    recognizers = load_recognizers(cards, threads=threads)
    collected: dict[str, list[np.ndarray]] = {r.card.name: [] for r in recognizers}
    opened = open_bundle(bundle or default_bundle("public"))
    with FaceDetector.from_bundle(opened, threads=threads) as detector:
        for photo in track(photos, "embedding"):
            embeddings = embed_main_face(read_picture(photo).pixels, detector, recognizers)
            for name, embedding in (embeddings or {}).items():
                collected[name].append(embedding)
    thresholds = {}
    for name, embeddings in collected.items():
        matrix = np.stack(embeddings)
        cosines = (matrix @ matrix.T)[np.triu_indices(len(matrix), k=1)]
        thresholds[name] = {str(far): float(np.quantile(cosines, 1 - far)) for far in FARS}
        click.echo(f"{name}: " + ", ".join(f"FAR {far} {t:.4f}" for far, t in thresholds[name].items()))
    write_json(
        {
            "environment": environment(),
            "pictures": len(matrix),
            "pairs": len(cosines),
            "seed": seed,
            "thresholds": thresholds,
        },
        out,
    )


if __name__ == "__main__":
    main()
