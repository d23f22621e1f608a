"""``benchmarks.efficacy target``: the target's SFace embedding, for the manifest (``export.build``)."""

from __future__ import annotations

import json
from pathlib import Path

import click

from export.detector import export_detector
from runtime import recognizers
from runtime.backends import create_backend
from runtime.detection import FaceDetector
from runtime.pictures import read_picture

from .recognition import main_face


@click.command()
@click.option("--picture", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--recognizer", type=click.Path(path_type=Path), help="SFace; default: as verify finds it.")
@click.option("--out", required=True, type=click.Path(path_type=Path))
def command(picture: Path, recognizer: Path | None, out: Path) -> None:
    """Embeds the largest central face of a picture of the target."""
    sface = recognizers.load(recognizer)
    pixels = read_picture(picture).pixels
    graphs = export_detector()
    networks = [create_backend("ort-cpu", graphs[n].SerializeToString()) for n in ("pnet", "rnet", "onet")]
    with FaceDetector(*networks) as detector:
        face = main_face(detector.detect(pixels), (pixels.shape[1] / 2, pixels.shape[0] / 2))
    if face is None:
        raise click.ClickException(f"no face was found in {picture}")
    embedding = sface.embed(pixels, face.landmarks)
    out.write_text(json.dumps({"sface": [round(float(v), 6) for v in embedding]}) + "\n", encoding="utf-8")
