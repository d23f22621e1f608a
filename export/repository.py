"""``python -m export.repository``: from bundles to Triton model repositories, without any training."""

from __future__ import annotations

from pathlib import Path

import click

from runtime.errors import ErasableMaskError

from .triton_repository import MODELS, write_repositories

EXAMPLE = """\b
Example:
  python -m export.repository --bundle runtime/bundles/compact \\
      --out triton_models --overwrite
"""


@click.command(epilog=EXAMPLE)
@click.option(
    "--bundle",
    required=True,
    type=click.Path(path_type=Path, exists=True),
    help="Folder with the bundle public/ and, for the authority's repository, authority/.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Gets public/ and authority/.")
@click.option("--overwrite", is_flag=True, help="Replace the repositories in --out.")
def main(bundle: Path, out: Path, overwrite: bool) -> None:
    """Writes Triton model repositories: public/ to protect with, authority/ to erase with.

    The authority's has configurations only, for the restorer is never written unsealed. Without a bundle
    authority/ there is no repository authority/.
    """
    authority = bundle / "authority"
    try:
        write_repositories(
            bundle / "public", authority if authority.exists() else None, out, overwrite=overwrite
        )
    except ErasableMaskError as error:
        raise click.ClickException(f"{error}\nNothing was written.") from error
    for role, names in MODELS.items():
        if (out / role).exists():
            click.echo(f"{out / role}: {', '.join(names)}")


if __name__ == "__main__":
    main()
