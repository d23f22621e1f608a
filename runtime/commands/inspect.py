"""``erasablemask inspect``: what a bundle is, and whether its files are whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import BundleError

if TYPE_CHECKING:
    from ..manifest import Bundle


@click.command(
    epilog="""\b
    Example:
      erasablemask inspect my-bundle/public"""
)
@click.argument("bundle", required=False, type=click.Path(path_type=Path), metavar="[BUNDLE]")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def command(bundle: Path | None, as_json: bool) -> None:
    """Show a bundle and check its files.

    Without BUNDLE, the shipped public one. Every file's SHA-256 is compared with the manifest; a
    difference is an error.
    """
    from ..manifest import open_bundle
    from ..shipped import default_bundle

    opened = open_bundle(bundle or default_bundle("public"))
    sizes, failures = {}, []
    for name in opened.manifest.models:
        try:
            sizes[name] = len(opened.read(name))
        except BundleError as error:
            failures.append(str(error))
    click.echo(opened.manifest.to_json() if as_json else _describe(opened, sizes))
    if failures:
        raise BundleError("\n".join(failures))


def _describe(bundle: Bundle, sizes: dict[str, int]) -> str:
    manifest = bundle.manifest
    rows: dict[str, Any] = {
        "bundle": bundle.folder,
        "system": manifest.system,
        "role": manifest.role + (" (demo: its secret is public)" if manifest.demo else ""),
        "name": manifest.name,
        "target": manifest.target,
        "faces": f"{manifest.image_size} x {manifest.image_size} px, at most {manifest.max_batch} at once",
        "precision": f"{manifest.precision}, ONNX opset {manifest.opset}",
        "strength": manifest.strength,
        "injection": manifest.injection,
        "attributes": ", ".join(manifest.attributes),
        "terms": manifest.terms,
    }
    if manifest.system == "anonymiser":
        for of_the_mask in ("target", "injection", "attributes"):
            del rows[of_the_mask]
    lines = [f"{label:<12}{value}" for label, value in rows.items()]
    for name, model in sorted(manifest.models.items()):
        state = f"{sizes[name]:>10} bytes, SHA-256 agrees" if name in sizes else "   MISSING OR CHANGED"
        lines.append(f"{name:<12}{model.path:<20}{state}{', sealed' if model.sealed else ''}")
    return "\n".join(lines)
