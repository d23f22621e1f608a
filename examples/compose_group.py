"""Composes examples/group.jpg: five prints of two public-domain portraits on a plain wall.

    python examples/compose_group.py ASTRONAUT.png GRACE_HOPPER.jpg examples/group.jpg

The portraits are `skimage/data/astronaut.png` of scikit-image and `mpl-data/sample_data/grace_hopper.jpg` of
matplotlib; see ATTRIBUTION.md.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter, ImageOps

WALL_SIZE = (1600, 1000)
SUPERSAMPLING = 2
MAT_PX, FRAME_PX, SHADOW_PX = 22, 7, 14


@dataclass(frozen=True)
class Print:
    """One framed print: which part of which portrait, how large, where its centre hangs, how it is turned."""

    portrait: str
    box: tuple[int, int, int, int]
    height_px: int
    centre: tuple[int, int]
    degrees: float = 0.0
    mirrored: bool = False


PRINTS = (
    Print("astronaut", (40, 0, 412, 496), 640, (330, 500), degrees=1.5),
    Print("hopper", (56, 0, 476, 560), 430, (835, 300), degrees=-1.0),
    Print("astronaut", (90, 0, 370, 280), 270, (820, 775), degrees=-4.0, mirrored=True),
    Print("hopper", (96, 0, 436, 400), 470, (1300, 340), degrees=2.5, mirrored=True),
    Print("astronaut", (110, 10, 330, 285), 210, (1260, 800), degrees=6.0),
)


def wall() -> Image.Image:
    """A warm grey wall, lighter at the top left, with a little grain so that JPEG shows no bands."""
    width, height = WALL_SIZE
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    light = 1.0 - 0.18 * (0.6 * x + 0.8 * y)
    grain = np.random.default_rng(2).normal(0, 1.2, (height, width, 1))
    pixels = light[..., None] * np.array([214, 208, 198]) + grain
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def framed(item: Print, portraits: dict[str, Image.Image]) -> Image.Image:
    """The print with its white mat and dark frame, at the supersampled size, turned, with alpha."""
    scale = SUPERSAMPLING
    part = portraits[item.portrait].crop(item.box)
    height = item.height_px * scale
    part = part.resize((round(height * part.width / part.height), height), Image.Resampling.LANCZOS)
    if item.mirrored:
        part = ImageOps.mirror(part)
    part = ImageOps.expand(part, MAT_PX * scale, (248, 246, 241))
    part = ImageOps.expand(part, FRAME_PX * scale, (52, 44, 38)).convert("RGBA")
    return part.rotate(item.degrees, Image.Resampling.BICUBIC, expand=True)


def main(astronaut: str, hopper: str, destination: str) -> None:
    """Hangs the prints, the shadow of each below it, and saves the picture at JPEG quality 95."""
    portraits = {
        "astronaut": Image.open(astronaut).convert("RGB"),
        "hopper": Image.open(hopper).convert("RGB"),
    }
    picture = wall()
    for item in PRINTS:
        frame = framed(item, portraits)
        frame = frame.resize(
            (frame.width // SUPERSAMPLING, frame.height // SUPERSAMPLING), Image.Resampling.BOX
        )
        left, top = item.centre[0] - frame.width // 2, item.centre[1] - frame.height // 2
        shadow = Image.new("L", WALL_SIZE)
        shadow.paste(frame.getchannel("A").point(lambda alpha: alpha * 0.45), (left + 6, top + 10))
        picture.paste((40, 34, 30), mask=shadow.filter(ImageFilter.GaussianBlur(SHADOW_PX)))
        picture.paste(frame, (left, top), mask=frame)
    picture.save(destination, quality=95, subsampling=0)


if __name__ == "__main__":
    main(*sys.argv[1:])
