"""``python -m export.build``: from a training run to the bundles and the repositories that serve them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runtime.errors import ErasableMaskError, MissingExtraError

from .repository import engine_options, log_to_stderr, options_of, say_written, serve_bundles

if TYPE_CHECKING:
    from .engine import EngineOptions
    from .precision import Precision
    from .recipe import BuildReport

EXAMPLE = """\b
Example:
  python -m export.build --run runs/compact --out bundle --fp16 \\
      --faces faces/ --new-key authority.key
"""

_EXISTING = click.Path(path_type=Path, exists=True)


@click.command(epilog=EXAMPLE)
@click.option(
    "--system",
    type=click.Choice(["mask", "anonymiser"]),
    default="mask",
    show_default=True,
    help="What the run trained; the anonymiser gets public/ alone, see docs/anonymiser.md.",
)
@click.option("--run", type=_EXISTING, help="A training run's folder.  [default: the shipped networks]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Gets public/, authority/ and, of a run, triton_models/.  [default, without --run: triton_models]",
)
@click.option("--fp16", is_flag=True, help="Store the weights in float16: short for --precision fp16.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "fp16-mixed", "bf16-mixed", "int8", "int8-gpu"]),
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
@click.option("--overwrite", is_flag=True, help="Replace the bundles in --out.  [without --run: always]")
@engine_options
@click.option("--unfinished", is_flag=True, help="Take a run whose training is not over, for a smoke run.")
def main(
    system: str,
    run: Path | None,
    out: Path | None,
    fp16: bool,
    precision: Precision | None,
    key: Path | None,
    new_key: Path | None,
    demo: bool,
    faces: Path | None,
    target_embedding: Path | None,
    name: str | None,
    overwrite: bool,
    flavour: str | None,
    target_gpu: tuple[str, ...],
    version_compatible: bool,
    timing_cache: Path | None,
    unfinished: bool,
) -> None:
    """Exports a run's networks to ONNX, compares them with PyTorch, and writes the bundles.

    The restorer is sealed with one of --key, --new-key and --demo; without any, with a new key beside
    --out. If a comparison fails, nothing is written. --out also gets Triton repositories that serve the
    bundles. Without --run, there is nothing to export: only the repositories of the shipped bundles are
    written.
    """
    if fp16 and precision not in (None, "fp16"):
        raise click.UsageError(f"expected one precision, found --fp16 and --precision {precision}")
    engines = options_of(flavour, target_gpu, version_compatible, timing_cache)
    if system == "anonymiser":
        masks = {
            "--key": key,
            "--new-key": new_key,
            "--demo": demo,
            "--target-embedding": target_embedding,
            "--tensorrt": engines,
        }
        if given := [option for option, value in masks.items() if value]:
            raise click.UsageError(f"{given[0]} belongs to --system mask")
        if run is None or out is None:
            raise click.UsageError("expected --run and --out: no anonymiser is shipped")
        _build_anonymiser(
            run=run,
            out=out,
            precision="fp16" if fp16 else precision or "fp32",
            faces=faces,
            name=name,
            overwrite=overwrite,
            unfinished=unfinished,
        )
        return
    if run is None:
        options = {
            "--key": key,
            "--new-key": new_key,
            "--demo": demo,
            "--faces": faces,
            "--target-embedding": target_embedding,
            "--name": name,
            "--unfinished": unfinished,
        }
        if given := [option for option, value in options.items() if value]:
            raise click.UsageError(f"{given[0]} is about exporting a run; name one with --run")
        _serve_shipped("fp16" if fp16 else precision, out or Path("triton_models"), engines)
        return
    if out is None:
        raise click.UsageError("expected --out, the folder that gets the bundles of --run")
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
            engines=engines,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    log_to_stderr()
    try:
        report = build(request)
    except (ErasableMaskError, CheckpointError) as error:
        raise click.ClickException(f"{error}\nNothing was written.") from error
    _show(report, out)


def _build_anonymiser(**request: Any) -> None:
    """See ``export.anonymise``."""
    try:
        from training.checkpoint import CheckpointError

        from .anonymise import AnonymiseRequest, build_anonymiser
    except ImportError as error:
        raise click.ClickException(str(MissingExtraError(error.name or str(error), "export"))) from error

    log_to_stderr()
    try:
        report = build_anonymiser(AnonymiseRequest(**request))
    except (ErasableMaskError, CheckpointError) as error:
        raise click.ClickException(f"{error}\nNothing was written.") from error
    _show_bundles(report, request["out"])


def _serve_shipped(precision: Precision | None, out: Path, options: EngineOptions | None) -> None:
    """The shipped networks without any training: repositories, and plans if asked for. Replaces its own."""
    from rich.console import Console

    from runtime.manifest import open_bundle
    from runtime.shipped import default_bundle

    from .parity_report import read_report
    from .tables import show_parity

    log_to_stderr()
    try:
        public, authority = default_bundle("public"), default_bundle("authority")
        bundle = open_bundle(public)
        shipped, parity = bundle.manifest, read_report(bundle)
        if precision not in (None, shipped.precision):
            raise click.ClickException(
                f"the shipped networks are in {shipped.precision}; for {precision} name a training run "
                "with --run"
            )
        engines = serve_bundles(public, authority, out, overwrite=True, options=options)
    except ErasableMaskError as error:
        raise click.ClickException(f"{error}\nNothing was written.") from error
    click.echo(f"Networks: the shipped bundle {shipped.name!r} in {shipped.precision}; no run was exported.")
    click.echo("As they were compared with the trained networks when they were exported:")
    show_parity(Console(), parity)
    say_written(out, engines)


def _show(report: BuildReport, out: Path) -> None:
    from .bundle import REPOSITORIES

    _show_bundles(report, out)
    say_written(out / REPOSITORIES, report.engines)
    if report.new_key is not None:
        click.echo(
            f"New key: {report.new_key}\nIt opens the restorer: who has it can erase, who loses it cannot. "
            "Keep it apart from the bundles."
        )


def _show_bundles(report: BuildReport, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from .tables import show_parity

    sizes = Table(title=str(out), show_footer=True)
    sizes.add_column("file", footer="in all")
    sizes.add_column("MiB", justify="right", footer=f"{sum(report.sizes.values()) / 2**20:.2f}")
    for path, size in report.sizes.items():
        sizes.add_row(path, f"{size / 2**20:.2f}")
    console = Console()
    show_parity(console, report.parity)
    console.print(sizes)


if __name__ == "__main__":
    main()
