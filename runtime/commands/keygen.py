"""``erasablemask keygen``: a new key for an authority."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(
    epilog="""\b
    Example:
      erasablemask keygen authority.key"""
)
@click.argument("key_file", type=click.Path(path_type=Path), metavar="FILE")
def command(key_file: Path) -> None:
    """Make a key file, readable by you only.

    Whoever has the key can erase the mask of every photo protected with its bundle; who loses it cannot erase
    any more. An existing file is never overwritten. Prints the key's id, which is no secret.
    """
    from ..authority import generate_key, write_key_file

    click.echo(write_key_file(key_file, generate_key()))
