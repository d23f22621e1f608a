"""``benchmarks.efficacy hardened``: attack and erasure success on hardened recognisers (Table IV).

Each is measured beside the recogniser it was made of, by ``pictures``'s protocol, and the result tells how
well it still recognises and how robust it became.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ..common import as_click_errors, names_below
from ..schema import write_result
from . import pictures
from .protocol import Laboratory, chosen_pictures, laboratory_options
from .suspicion import finish


def hardenings(folder: Path) -> dict[str, Any]:
    """What ``harden`` wrote of each recogniser in its folder, by name.

    Raises:
        ValueError: there is none.
    """
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*_hardened.json"))}
    if not found:
        raise ValueError(f"no *_hardened.json in {folder}; run: python -m benchmarks.efficacy harden")
    return found


@click.command()
@click.option(
    "--folder", required=True, type=click.Path(path_type=Path, exists=True), help="As harden left it."
)
@click.option(
    "--images", required=True, type=click.Path(path_type=Path, exists=True), help="Or CelebA's root."
)
@click.option("--count", default=500, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", required=True, type=click.Path(path_type=Path))
@laboratory_options
def command(folder: Path, images: Path, count: int, seed: int, out: Path, **laboratory: Any) -> None:
    """Attack and erasure success rates of a bundle on hardened recognisers."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    with as_click_errors():
        made = hardenings(folder)
        paths, data = chosen_pictures(images, count, seed)
        result = pictures.measure(paths, Laboratory(**laboratory), perceptual={})
    result |= {
        "benchmark": "hardened",
        "seed": seed,
        "data": data,
        "hardening": made,
        "picture_list": names_below(images, paths),
    }
    Console(width=150).print(pictures.table_of(result))
    write_result(result, out)
    finish(result)
