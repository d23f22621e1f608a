"""``python -m export.annotate``: writes into a bundle's manifest what is known later."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from runtime.errors import ErasableMaskError
from runtime.manifest import MANIFEST_NAME, open_bundle
from training.fingerprint import FIELD, attacked_runs, onnx_fingerprint

from .errors import ExportError

EXAMPLE = """\b
Example:
  python -m export.annotate --bundle bundle/public --measured results.json
  python -m export.annotate --bundle bundle/public --surrogate edgeface_xs=fr/edgeface_xs.onnx
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
    type=click.Path(path_type=Path, exists=True),
    help="A JSON object of figures, instead of those that are there.",
)
@click.option(
    "--surrogate",
    "surrogates",
    multiple=True,
    metavar="NAME=FILE",
    help="The ONNX file of a recogniser it was trained against, for a bundle that does not know its hashes.",
)
def main(bundles: tuple[Path, ...], measured: Path | None, surrogates: tuple[str, ...]) -> None:
    """Adds to the manifests of bundles what is known later; nothing else in them changes."""
    if measured is None and not surrogates:
        raise click.UsageError("expected --measured, --surrogate or both")
    try:
        figures = read_figures(measured) if measured else None
        fingerprints = dict(map(read_surrogate, surrogates))
        for bundle in bundles:
            annotate(bundle, figures, fingerprints)
    except ErasableMaskError as error:
        raise click.ClickException(str(error)) from error


def read_surrogate(assignment: str) -> tuple[str, dict[str, Any]]:
    """Name and fingerprint of ``NAME=FILE``.

    Raises:
        ExportError: it has another form, or the file is no ONNX file.
    """
    name, separator, path = assignment.partition("=")
    if not separator or not name:
        raise ExportError(f"expected NAME=FILE, found {assignment!r}")
    try:
        return name, dataclasses.asdict(onnx_fingerprint(Path(path)))
    except (OSError, ValueError) as error:
        raise ExportError(f"cannot read the surrogate {name!r} from {path}: {error}") from error


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


def annotate(
    folder: Path, figures: dict[str, Any] | None, surrogates: Mapping[str, dict[str, Any]] | None = None
) -> None:
    """Replaces ``measured`` in a bundle's manifest, and adds surrogates' fingerprints, whole or not at all.

    Every network's hash is checked first: figures belong to the files that they were measured on.

    Args:
        figures: None to keep those that are there.
        surrogates: fingerprints by name; see ``training.fingerprint``.

    Raises:
        BundleError: the folder is no bundle, or a file of it was changed.
        ExportError: the manifest cannot be written, names no such surrogate, or knows another file of it.
    """
    bundle = open_bundle(folder)
    for name in bundle.manifest.models:
        bundle.read(name)
    manifest = dataclasses.replace(
        bundle.manifest,
        measured=bundle.manifest.measured if figures is None else figures,
        training=with_fingerprints(bundle.manifest.training, surrogates or {}),
    )
    partial = folder / f"{MANIFEST_NAME}.partial"
    try:
        partial.write_text(manifest.to_json() + "\n", encoding="utf-8")
        os.replace(partial, folder / MANIFEST_NAME)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ExportError(f"cannot write {folder / MANIFEST_NAME}: {error.strerror or error}") from error


def with_fingerprints(
    training: Mapping[str, Any], surrogates: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """A manifest's ``training`` with fingerprints in every run's record that has surrogates of those names.

    Raises:
        ExportError: no record has one of them, or one has another fingerprint of it.
    """
    changed = copy.deepcopy(dict(training))
    runs = list(attacked_runs(changed))
    for name, fingerprint in surrogates.items():
        records = [run for run in runs if name in run.get("surrogates", ())]
        if not records:
            named = sorted({known for run in runs for known in run.get("surrogates", ())})
            raise ExportError(
                f"the bundle was not trained against {name!r}; its surrogates are: "
                f"{', '.join(named) or 'unknown'}"
            )
        for run in records:
            known = run.setdefault(FIELD, {}).setdefault(name, fingerprint)
            if known != fingerprint:
                raise ExportError(
                    f"the bundle was trained against another file of {name!r}: expected {known}, "
                    f"found {fingerprint}"
                )
    return changed


if __name__ == "__main__":
    main()
