"""``erasablemask unseal``: does this secret open this bundle?"""

from __future__ import annotations

import json
from pathlib import Path

import click

from ._secrets import secret_from, secret_options


@click.command(
    epilog="""\b
    Example:
      erasablemask unseal authority/ --key-file authority.key"""
)
@click.argument("bundle", type=click.Path(path_type=Path, file_okay=False))
@secret_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(bundle: Path, key_file: Path | None, ask: bool, as_json: bool) -> None:
    """Check that a secret opens an authority BUNDLE.

    The restorer is unsealed in memory and forgotten: this program never writes it unsealed. Prints the
    SHA-256 of the plain restorer, by which two bundles can be compared.
    """
    from ..authority import unseal_model
    from ..manifest import open_bundle, sha256_of

    model = unseal_model(open_bundle(bundle), secret_from(key_file, ask))
    found = {"bundle": str(bundle), "restorer_sha256": sha256_of(model), "restorer_bytes": len(model)}
    if as_json:
        click.echo(json.dumps(found))
    else:
        click.echo(
            f"the secret opens {bundle}: restorer of {len(model)} bytes, SHA-256 {found['restorer_sha256']}"
        )
