"""``python -m export.annotate``: writes measured figures into a bundle's manifest."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import click

from runtime.errors import ErasableMaskError
from runtime.manifest import MANIFEST_NAME, open_bundle

from .errors import ExportError

EXAMPLE = """\b
Example:
  python -m export.annotate --bundle bundle/public --measured results.json
"""


@click.command(epilog=EXAMPLE)
@click.option(
    "--bundle",
    "bundles",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path, exists=True),
    help="A bundle's folder; may be given more than once.",
)
@click.option(
    "--measured",
    required=True,
    type=click.Path(path_type=Path, exists=True),
    help="A JSON object of figures.",
)
def main(bundles: tuple[Path, ...], measured: Path) -> None:
    """Replaces the measured figures of bundles; nothing else in them changes."""
    try:
        figures = read_figures(measured)
        for bundle in bundles:
            annotate(bundle, figures)
    except ErasableMaskError as error:
        raise click.ClickException(str(error)) from error


def read_figures(path: Path) -> dict[str, Any]:
    """A JSON object; the names of the pictures that it was measured on stay behind.

    Raises:
        ExportError: the file cannot be read or holds something else.
    """
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"cannot read figures from {path}: {error}") from error
    if not isinstance(figures, dict):
        raise ExportError(f"expected a JSON object of figures in {path}, found {type(figures).__name__}")
    return {name: figure for name, figure in figures.items() if name != "picture_list"}


def annotate(folder: Path, figures: dict[str, Any]) -> None:
    """Replaces ``measured`` in a bundle's manifest, whole or not at all.

    Every network's hash is checked first: figures belong to the files that they were measured on.

    Raises:
        BundleError: the folder is no bundle, or a file of it was changed.
        ExportError: the manifest cannot be written.
    """
    bundle = open_bundle(folder)
    for name in bundle.manifest.models:
        bundle.read(name)
    manifest = dataclasses.replace(bundle.manifest, measured=figures)
    partial = folder / f"{MANIFEST_NAME}.partial"
    try:
        partial.write_text(manifest.to_json() + "\n", encoding="utf-8")
        os.replace(partial, folder / MANIFEST_NAME)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ExportError(f"cannot write {folder / MANIFEST_NAME}: {error.strerror or error}") from error


if __name__ == "__main__":
    main()
