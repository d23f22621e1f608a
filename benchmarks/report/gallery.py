"""Faces that may be shown, as the bundle changes them: made when the report is, from packaged pictures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from runtime.detection import FaceDetector
from runtime.pictures import read_picture
from runtime.pipeline import Eraser, Protector
from runtime.results import Face

from ..bundles import Bundles
from ..efficacy.published import NO_PERTURBATION, decode, jpeg
from .parts import Picture, Section

ROOT = Path(__file__).parents[2]
# In the public domain, see NOTICE.md; both are people whose photographs are everybody's test pictures.
PORTRAIT, HOPPER, GROUP = (
    ROOT / "examples" / "portrait.jpg",
    ROOT / "tests" / "pictures" / "hopper.jpg",
    ROOT / "examples" / "group.jpg",
)
ROWS: Sequence[tuple[Path, Mapping[str, int]]] = (
    (PORTRAIT, {}),
    (PORTRAIT, {"Eyeglasses": 1}),
    (HOPPER, {}),
    (HOPPER, {"Blond_Hair": 1, "Black_Hair": 0, "Brown_Hair": 0}),
)
SAVED_QUALITY = 95
SHOWN_QUALITY = 88
SIDE_PX = 240
WIDE_PX = (320, 200)
GAIN = 5

Pixels = NDArray[np.uint8]


def gallery(bundles: Bundles) -> Section:
    """Source, edited, protected, difference and restored, row by row; the last row is the whole group.

    Raises:
        ErasableMaskError: a network failed, or no face was found.
    """
    rows = []
    with (
        FaceDetector.from_bundle(bundles.public) as detector,
        Protector(bundles.public) as protector,
        Eraser(bundles.authority, bundles.restorer) as eraser,
    ):
        for place, (path, edits) in enumerate((*ROWS, (GROUP, {}))):
            source = read_picture(path).pixels
            known = {
                name: value for name, value in edits.items() if name in bundles.public.manifest.attributes
            }
            edited = protector.protect(source, attributes=known, strength=NO_PERTURBATION).pixels
            protected = decode(jpeg(protector.protect(source, attributes=known).pixels, SAVED_QUALITY))
            restored = decode(jpeg(eraser.erase(protected).pixels, SAVED_QUALITY))
            face = None if path == GROUP else detector.detect(source)[0]
            wanted = ", ".join(f"{name} {value}" for name, value in known.items())
            if wanted:
                rebuilt = protector.protect(source, strength=NO_PERTURBATION).pixels
                levels = np.abs(edited.astype(np.int16) - rebuilt).mean()
                wanted = f"edited: {wanted} ({levels:.1f} of 255 levels a pixel)"
            shown = {
                "source": source,
                wanted or "rebuilt, no edit": edited,
                "protected": protected,
                f"protected - edited, x{GAIN}": amplified(edited, protected),
                "restored": restored,
            }
            rows.append(
                [
                    Picture(name=f"{place}-{column}", jpeg=cell(pixels, face), label=label)
                    for column, (label, pixels) in enumerate(shown.items())
                ]
            )
    return Section(
        anchor="pictures",
        title="What it looks like",
        text=[
            "Packaged photographs in the public domain, changed by the bundle when this report was made. "
            "Edited is the picture with other attributes but no mask: the mask alone is the difference to "
            f"it. Protected and restored pictures were saved as JPEG q{SAVED_QUALITY}; the restored one was "
            "made of the saved protected one. Erasing brings back the source, not the edit."
        ],
        gallery=rows,
    )


def amplified(before: Pixels, after: Pixels) -> Pixels:
    """The change, enlarged, around middle grey."""
    change = after.astype(np.int16) - before
    return np.clip(128 + GAIN * change, 0, 255).astype(np.uint8)


def cell(pixels: Pixels, face: Face | None) -> bytes:
    """A square around a face, or a whole picture, as a small JPEG."""
    if face is None:
        shown = ImageOps.contain(Image.fromarray(pixels), WIDE_PX, Image.Resampling.LANCZOS)
    else:
        x0, y0, x1, y1 = face.box
        half = min(0.85 * face.size_px, min(pixels.shape[:2]) / 2)
        left = np.clip((x0 + x1) / 2 - half, 0, pixels.shape[1] - 2 * half)
        top = np.clip((y0 + y1) / 2 - half, 0, pixels.shape[0] - 2 * half)
        box = (left, top, left + 2 * half, top + 2 * half)
        shown = Image.fromarray(pixels).resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS, box=box)
    file = io.BytesIO()
    shown.save(file, "JPEG", quality=SHOWN_QUALITY)
    return file.getvalue()
