"""``python -m export.repository``: from bundles to Triton model repositories and TensorRT plans.

It takes no training run: on the machine that serves, the bundles are enough.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from runtime.errors import ErasableMaskError, MissingExtraError
from runtime.manifest import open_bundle
from runtime.serving.repository import MODELS, names_in, names_of

from .engine import Engine, EngineOptions
from .errors import ExportError
from .triton_repository import check_free, write_repositories

EXAMPLE = """\b
Examples:
  python -m export.repository --bundle runtime/bundles/compact \\
      --out triton_models --overwrite
  python -m export.repository --bundle bundle --out triton_models --tensorrt
"""

PLANS_HINT = (
    "No TensorRT plans: they belong to one GPU and one version of TensorRT. On the machine that serves, "
    "install the extras export and gpu (README, Extras), then run: python -m export.repository --bundle "
    "FOLDER --out FOLDER --tensorrt"
)

Command = TypeVar("Command", bound=Callable[..., Any])


def engine_options(command: Command) -> Command:
    """The options that say which TensorRT plans to build."""
    for decorate in (
        click.option(
            "--timing-cache",
            type=click.Path(path_type=Path),
            help="Folder where TensorRT keeps what it measured.",
        ),
        click.option(
            "--version-compatible",
            is_flag=True,
            help="Plans also for later versions of the same major one.",
        ),
        click.option(
            "--target-gpu",
            multiple=True,
            metavar="X.Y",
            help="Compute capability that plans are for, repeatable; 8.0+: Ampere and newer, with "
            "tensorrt_rtx but for 9.0 and 10.0.",
        ),
        click.option(
            "--tensorrt",
            "flavour",
            is_flag=False,
            flag_value="tensorrt",
            type=click.Choice(["tensorrt", "tensorrt_rtx"]),
            help="Also build TensorRT plans of the public networks, with this library; fail without it.",
        ),
    ):
        command = decorate(command)
    return command


def options_of(
    flavour: str | None, target_gpu: tuple[str, ...], version_compatible: bool, timing_cache: Path | None
) -> EngineOptions | None:
    """What ``engine_options`` were given; None for no plans.

    Raises:
        click.UsageError: options of plans without ``--tensorrt``.
    """
    if flavour is None:
        if target_gpu or version_compatible or timing_cache is not None:
            raise click.UsageError(
                "--target-gpu, --version-compatible and --timing-cache are about --tensorrt; add it"
            )
        return None
    return EngineOptions(
        flavour=flavour,
        target_gpu=target_gpu,
        version_compatible=version_compatible,
        timing_cache=timing_cache,
    )


def serve_bundles(
    public: Path, authority: Path | None, out: Path, *, overwrite: bool, options: EngineOptions | None
) -> dict[str, Engine]:
    """Builds the plans that are asked for, and writes them and the repositories, whole or not at all.

    Raises:
        ErasableMaskError: see ``write_repositories`` and ``build_engines``.
    """
    check_free(out, overwrite=overwrite)
    engines: dict[str, Engine] = {}
    if options is not None:
        try:
            from .engines import build_engines, check_engines, compare_graphs, plan_graphs
            from .faces import PARITY_FACES, synthetic_faces
        except ImportError as error:
            raise MissingExtraError(error.name or str(error), "export") from error
        bundle = open_bundle(public)
        manifest = bundle.manifest
        if manifest.float32_only:
            raise ExportError(
                "there are no plans of the anonymiser, which computes in float32 throughout; leave out "
                "--tensorrt"
            )
        check_engines(manifest.precision, options)
        models = {name: bundle.read(name) for name in names_of(manifest)}
        graphs = plan_graphs(models, manifest.precision)
        faces = synthetic_faces(PARITY_FACES, manifest.image_size)
        compare_graphs(models, graphs, faces, len(manifest.attributes))
        engines = build_engines(
            models, graphs, precision=manifest.precision, max_batch=manifest.max_batch, options=options
        )
    write_repositories(public, authority, out, overwrite=overwrite, engines=engines)
    return engines


def say_written(out: Path, engines: Mapping[str, Engine]) -> None:
    """What lies where, and what is missing and how to get it."""
    for role in MODELS:
        if there := [name for name in names_in(role) if (out / role / name).exists()]:
            click.echo(f"{out / role}: {', '.join(there)}")
    for name, engine in engines.items():
        about = engine.sidecar
        click.echo(
            f"TensorRT plan of {name}: {about.flavour} {about.flavour_version}, {about.precision}, batches "
            f"{about.batch.min} to {about.batch.max}, GPUs {about.gpus()}, {len(engine.plan) / 2**20:.1f} "
            f"MiB in {about.build_s:.1f} s"
        )
    if not engines:
        click.echo(PLANS_HINT)


@click.command(epilog=EXAMPLE)
@click.option(
    "--bundle",
    required=True,
    type=click.Path(path_type=Path, exists=True),
    help="Folder with the bundle public/ and, for the authority's repository, authority/.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Gets public/ and authority/.")
@click.option("--overwrite", is_flag=True, help="Replace the repositories in --out.")
@engine_options
def main(
    bundle: Path,
    out: Path,
    overwrite: bool,
    flavour: str | None,
    target_gpu: tuple[str, ...],
    version_compatible: bool,
    timing_cache: Path | None,
) -> None:
    """Writes Triton model repositories: public/ to protect with, authority/ to erase with.

    The authority's has configurations only, for the restorer is never written unsealed. Without a bundle
    authority/ there is no repository authority/. Plans lie in engines/, for the runtime's own TensorRT
    backend, and those of plain TensorRT in the public repository, too.
    """
    options = options_of(flavour, target_gpu, version_compatible, timing_cache)
    authority = bundle / "authority"
    log_to_stderr()
    try:
        engines = serve_bundles(
            bundle / "public",
            authority if authority.exists() else None,
            out,
            overwrite=overwrite,
            options=options,
        )
    except ErasableMaskError as error:
        raise click.ClickException(f"{error}\nNothing was written.") from error
    say_written(out, engines)


def log_to_stderr() -> None:
    """Warnings of everybody, and what the export does."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("export").setLevel(logging.INFO)


if __name__ == "__main__":
    main()
