"""``python -m export.build``: from a training run to the public and the authority's bundle."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runtime.errors import ErasableMaskError, MissingExtraError

if TYPE_CHECKING:
    from .precision import Precision
    from .recipe import BuildReport

EXAMPLE = """\b
Example:
  python -m export.build --run runs/compact --out bundle --fp16 \\
      --faces faces/ --new-key authority.key
"""

_EXISTING = click.Path(path_type=Path, exists=True)


@click.command(epilog=EXAMPLE)
@click.option("--run", required=True, type=_EXISTING, help="A training run's folder.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Gets public/ and authority/.")
@click.option("--fp16", is_flag=True, help="Store the weights in float16: short for --precision fp16.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "fp16-mixed", "bf16-mixed", "int8"]),
    help="Of the networks, see docs/export.md.  [default: fp32]",
)
@click.option("--key", type=_EXISTING, help="Seal the restorer with this key file.")
@click.option(
    "--new-key",
    type=click.Path(path_type=Path),
    help="Make a key, and write it here.  [default: the name of --out with .key]",
)
@click.option("--demo", is_flag=True, help="Make a key, and publish it in the authority's bundle.")
@click.option("--faces", type=_EXISTING, help="Aligned faces to compare on: crops.npy, or a folder.")
@click.option("--target-embedding", type=_EXISTING, help='JSON of the target, like {"sface": [...]}.')
@click.option("--name", help="Name of the bundle; default: the run's preset.")
@click.option("--overwrite", is_flag=True, help="Replace the bundles in --out.")
@click.option("--unfinished", is_flag=True, help="Take a run whose training is not over, for a smoke run.")
def main(
    run: Path,
    out: Path,
    fp16: bool,
    precision: Precision | None,
    key: Path | None,
    new_key: Path | None,
    demo: bool,
    faces: Path | None,
    target_embedding: Path | None,
    name: str | None,
    overwrite: bool,
    unfinished: bool,
) -> None:
    """Exports a run's networks to ONNX, compares them with PyTorch, and writes both bundles.

    The restorer is sealed with one of --key, --new-key and --demo; without any, with a new key beside
    --out. If a comparison fails, nothing is written.
    """
    if fp16 and precision not in (None, "fp16"):
        raise click.UsageError(f"expected one precision, found --fp16 and --precision {precision}")
    try:
        from training.checkpoint import CheckpointError

        from .recipe import BuildRequest, build
    except ImportError as error:
        raise click.ClickException(str(MissingExtraError(error.name or str(error), "export"))) from error

    try:
        request = BuildRequest(
            run=run,
            out=out,
            precision="fp16" if fp16 else precision or "fp32",
            key=key,
            new_key=new_key,
            demo=demo,
            faces=faces,
            target_embedding=target_embedding,
            name=name,
            overwrite=overwrite,
            unfinished=unfinished,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("export").setLevel(logging.INFO)
    try:
        report = build(request)
    except (ErasableMaskError, CheckpointError) as error:
        raise click.ClickException(f"{error}\nNothing was written.") from error
    _show(report, out)


def _show(report: BuildReport, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    parity = Table(title=f"Drift of the exported networks on {report.faces}", min_width=60)
    for column in ("network", "max", "mean", "99.9%", "within 1"):
        parity.add_column(column, justify="left" if column == "network" else "right")
    for row in report.parity:
        within = "" if row.within_one is None else f"{row.within_one:.5%}"
        parity.add_row(row.network, f"{row.max:.3g}", f"{row.mean:.3g}", f"{row.p999:.3g}", within)
    sizes = Table(title=str(out), show_footer=True)
    sizes.add_column("file", footer="in all")
    sizes.add_column("MiB", justify="right", footer=f"{sum(report.sizes.values()) / 2**20:.2f}")
    for path, size in report.sizes.items():
        sizes.add_row(path, f"{size / 2**20:.2f}")
    console = Console()
    console.print(parity, sizes)
    if report.new_key is not None:
        click.echo(
            f"New key: {report.new_key}\nIt opens the restorer: who has it can erase, who loses it cannot. "
            "Keep it apart from the bundles."
        )


if __name__ == "__main__":
    main()
