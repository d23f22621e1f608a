"""Protects the two example photos, erases them again as the authority, and measures both: ``make demo``.

Everything is written to ``demo/``. All similarities are measured on the saved JPEG files.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from runtime import recognizers
from runtime.authority import load_secret, unseal_model
from runtime.detection import FaceDetector
from runtime.errors import BundleError, ErasableMaskError
from runtime.geometry import ImageU8
from runtime.manifest import Bundle, Manifest, open_bundle
from runtime.pictures import read_picture, write_picture
from runtime.pipeline import Eraser, Protector
from runtime.recognizers import Embedding, Recognizer
from runtime.results import Face
from runtime.shipped import default_bundle
from runtime.verification import KnownFace, find_again

ROOT = Path(__file__).resolve().parents[1]
PHOTOS = ("portrait", "group")
VERSIONS = ("original", "protected", "restored")

CELL_SIZE = (400, 300)
LABEL_HEIGHT_PX = 28
GAP_PX = 8
DIFFERENCE_GAIN = 8


def target_embedding(manifest: Manifest) -> Embedding:
    """SFace's embedding ``(128,)`` of the face that the bundle's photos are made to resemble.

    Raises:
        BundleError: the manifest does not carry it.
    """
    values = manifest.training.get("target_embeddings", {}).get("sface")
    if values is None or len(values) != recognizers.EMBEDDING_DIM:
        raise BundleError(
            "the manifest carries no SFace embedding of the target (training.target_embeddings.sface, 128 "
            "numbers), which the demo compares with; export the bundle again"
        )
    embedding = np.asarray(values, dtype=np.float32)
    return embedding / np.linalg.norm(embedding)


def make_photos(folder: Path, public: Bundle, authority: Bundle, restorer: bytes) -> None:
    """Writes ``original_*``, ``protected_*`` and ``restored_*.jpg``; erasing starts from the second."""
    with Protector(public) as protector, Eraser(authority, restorer) as eraser:
        for photo in PHOTOS:
            original, protected, restored = (folder / f"{version}_{photo}.jpg" for version in VERSIONS)
            shutil.copyfile(ROOT / "examples" / f"{photo}.jpg", original)
            picture = read_picture(original)
            write_picture(picture, protector.protect(picture.pixels).pixels, protected, overwrite=True)
            published = read_picture(protected)
            write_picture(published, eraser.erase(published.pixels).pixels, restored, overwrite=True)


def measure(
    versions: dict[str, ImageU8], detector: FaceDetector, recognizer: Recognizer, target: Embedding
) -> list[dict[str, Any]]:
    """Every original face's similarity to itself and to the target, in each version of its photo.

    A face that the detector does not find again in a version has ``None`` there.
    """
    found = {
        version: [
            KnownFace(face, recognizer.embed(pixels, face.landmarks)) for face in detector.detect(pixels)
        ]
        for version, pixels in versions.items()
    }
    rows = []
    for known in found["original"]:
        again = {version: find_again(known.face, faces) for version, faces in found.items()}
        rows.append(
            {
                "box": [round(value, 1) for value in known.face.box],
                "to_oneself": {v: _cosine(face, known.embedding) for v, face in again.items()},
                "to_target": {v: _cosine(face, target) for v, face in again.items()},
            }
        )
    return rows


def _cosine(known: KnownFace | None, reference: Embedding) -> float | None:
    return None if known is None else round(float(known.embedding @ reference), 4)


def draw_sheet(rows: list[tuple[str, dict[str, ImageU8]]]) -> Image.Image:
    """A labelled grid: each row's original, protected, restored, and the amplified change of protection."""
    width, height = CELL_SIZE
    columns = (*VERSIONS, f"protected - original, x{DIFFERENCE_GAIN}")
    step_x, step_y = width + GAP_PX, height + LABEL_HEIGHT_PX
    sheet = Image.new("RGB", (GAP_PX + step_x * len(columns), GAP_PX + step_y * len(rows)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=16)
    for y, (name, versions) in enumerate(rows):
        change = versions["protected"].astype(np.int16) - versions["original"]
        amplified = np.clip(128 + DIFFERENCE_GAIN * change, 0, 255).astype(np.uint8)
        for x, (label, pixels) in enumerate(zip(columns, (*versions.values(), amplified), strict=True)):
            corner = (GAP_PX + x * step_x, y * step_y)
            draw.text((corner[0], corner[1] + 6), f"{name}: {label}", fill="black", font=font)
            cell = ImageOps.pad(Image.fromarray(pixels), CELL_SIZE, Image.Resampling.LANCZOS, color="white")
            sheet.paste(cell, (corner[0], corner[1] + LABEL_HEIGHT_PX))
    return sheet


def around(pixels: ImageU8, face: Face) -> ImageU8:
    """The photo's part, with the sheet's 4:3 sides, that holds a face and its hair."""
    x0, y0, x1, y1 = face.box
    half_h = 0.8 * face.size_px
    half_w = half_h * CELL_SIZE[0] / CELL_SIZE[1]
    left, top = max(0, round((x0 + x1) / 2 - half_w)), max(0, round((y0 + y1) / 2 - half_h))
    return pixels[top : top + round(2 * half_h), left : left + round(2 * half_w)]


def draw_table(report: dict[str, Any]) -> Table:
    """The report in a few lines."""
    title = f"Cosine similarity to oneself and to the target, saved files, {report['recognizer']}"
    table = Table(title=title, box=SIMPLE_HEAD)
    table.add_column("photo, face", no_wrap=True)
    for reference in ("oneself", "target"):
        for version in ("before", "protected", "restored"):
            table.add_column(f"{reference}\n{version}", justify="right", no_wrap=True)
    for photo, faces in report["photos"].items():
        for number, face in enumerate(faces, 1):
            values = [face[key][version] for key in ("to_oneself", "to_target") for version in VERSIONS]
            table.add_row(f"{photo}, {number}", *("lost" if v is None else f"{v:.3f}" for v in values))
    threshold, far = report["threshold"], report["far"]
    table.caption = f'From {threshold:.3f} on, it says "same person" (false accept rate {far} on LFW).'
    return table


def main(folder: Path) -> None:
    """Runs the demo; its results go into ``folder``."""
    start_s = time.monotonic()
    console = Console()
    folder.mkdir(exist_ok=True)
    public = open_bundle(default_bundle("public"))
    target = target_embedding(public.manifest)
    sealed = open_bundle(default_bundle("authority"))
    secret = load_secret(key_file=sealed.folder / "demo.key")
    make_photos(folder, public, sealed, unseal_model(sealed, secret))

    recognizer = recognizers.load()
    photos, sheet = {}, []
    with FaceDetector.from_bundle(public) as detector:
        for photo in PHOTOS:
            versions = {v: read_picture(folder / f"{v}_{photo}.jpg").pixels for v in VERSIONS}
            photos[photo] = measure(versions, detector, recognizer, target)
            sheet.append((photo, versions))
            for number, face in enumerate(detector.detect(versions["original"]), 1):
                close = {version: around(pixels, face) for version, pixels in versions.items()}
                sheet.append((f"{photo}, face {number}", close))
    draw_sheet(sheet).save(folder / "sheet.png")
    report = {
        "bundle": public.manifest.name,
        "recognizer": recognizer.card.name,
        "far": recognizers.DEFAULT_FAR,
        "threshold": recognizer.threshold(),
        "seconds": round(time.monotonic() - start_s, 1),
        "photos": photos,
    }
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    console.print(draw_table(report))
    console.print(f"Pictures, sheet.png and report.json are in {folder}.", soft_wrap=True)
    console.print("The authority's key of this demo is public: it hides nothing from anybody.")


if __name__ == "__main__":
    try:
        main(ROOT / "demo")
    except ErasableMaskError as error:
        raise SystemExit(f"Error: {error}") from error
