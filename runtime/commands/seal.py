"""``erasablemask seal``: an authority bundle under another secret."""

from __future__ import annotations

from pathlib import Path

import click

from ._secrets import new_secret_options, secret_from, secret_options


@click.command(
    epilog="""\b
    Example:
      erasablemask seal authority/ --key-file old.key --new-key-file new.key --out rotated/"""
)
@click.argument("bundle", type=click.Path(path_type=Path, file_okay=False))
@secret_options
@new_secret_options
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="FOLDER", help="New bundle's folder."
)
def command(
    bundle: Path, key_file: Path | None, ask: bool, new_key_file: Path | None, ask_new: bool, out: Path
) -> None:
    """Seal the restorer of an authority BUNDLE again, under a new key or passphrase.

    Writes a copy of the bundle; the old one stays, and opens with the old secret until you delete it. The
    plain restorer is in memory only. Prints the new folder.
    """
    from ..manifest import open_bundle
    from ..rotation import reseal_bundle

    opened = open_bundle(bundle)
    old, new = secret_from(key_file, ask), secret_from(new_key_file, ask_new, new=True)
    click.echo(reseal_bundle(opened, old, new, out).folder)
    if opened.manifest.demo:
        click.echo(
            "warning: this restorer was published for demonstrations; a new key does not hide it", err=True
        )
