"""``erasablemask erase``: protected photos in, restored photos out, for who holds the secret."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._batch import WriteOptions, run_batch
from ._files import picture_options, plan_jobs
from ._metrics import Metrics
from ._remote import backend_options, say_backend
from ._secrets import secret_from, secret_options

if TYPE_CHECKING:
    from ..backends.triton import TritonServer


@click.command(
    epilog="""\b
    Example:
      erasablemask erase protected.jpg -o restored.jpg --key-file authority.key"""
)
@picture_options
@backend_options
@secret_options
@click.option(
    "--bundle", type=click.Path(path_type=Path), metavar="FOLDER", help="[default: the shipped bundle]"
)
def command(
    inputs: tuple[Path, ...],
    output: Path,
    bundle: Path | None,
    key_file: Path | None,
    ask: bool,
    backend: str | TritonServer,
    in_flight: int,
    min_face: int | None,
    threads: int | None,
    overwrite: bool,
    replace_input: bool,
    exif: str,
    as_json: bool,
    metrics_file: Path | None,
) -> None:
    """Erase the protection, as the trusted authority.

    IN are protected pictures as they were published, or folders of them. The authority's bundle holds the
    restorer, sealed with the secret; it is opened in memory only. With --backend triton the authority's
    server has it: your certificate takes the place of the secret.
    """
    jobs = plan_jobs(inputs, output)
    secret = secret_from(key_file, ask) if isinstance(backend, str) else None
    if secret is None and (key_file is not None or ask):
        raise click.UsageError(
            "with --backend triton the server holds the secret; give no --key-file or --passphrase"
        )

    from ..authority import unseal_model
    from ..detection import FaceDetector
    from ..manifest import open_bundle
    from ..pipeline import Eraser
    from ..shipped import default_bundle

    opened = open_bundle(bundle or default_bundle("authority"))
    restore_model = unseal_model(opened, secret) if secret is not None else None
    if opened.manifest.demo:
        click.echo(
            "Warning: the secret of this demo bundle is public: anybody can erase what it protects. "
            "Train and seal your own bundle for real use.",
            err=True,
        )
    metrics = Metrics(metrics_file)
    detector = FaceDetector.from_bundle(opened, threads=threads, min_face_px=min_face)
    with Eraser(
        opened, restore_model, backend=backend, threads=threads, detector=detector, watch=metrics.watch
    ) as eraser:
        say_backend(eraser.backend)
        run_batch(
            jobs,
            eraser.erase,
            WriteOptions(exif=exif, overwrite=overwrite, replace_input=replace_input),
            verb="restored",
            as_json=as_json,
            in_flight=in_flight,
            metrics=metrics,
            extra={
                "bundle": opened.manifest.name,
                "demo": opened.manifest.demo,
                "backend": eraser.backend,
            },
        )
