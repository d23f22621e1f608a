"""``erasablemask anonymise``: photos in, photos with other faces out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._batch import WriteOptions, run_batch
from ._files import picture_options, plan_jobs
from ._metrics import Metrics
from ._remote import backend_options, say_backend

if TYPE_CHECKING:
    from ..backends import BackendFactory
    from ..backends.triton import TritonServer


@click.command(
    epilog="""\b
    Example:
      erasablemask anonymise photos/ -o anonymised/ --bundle bundle/public"""
)
@picture_options
@backend_options
@click.option(
    "--strength",
    type=click.FloatRange(0, 1, min_open=True),
    help="Of the noise injected: more hides more, from recognisers too.  [default: the bundle's]",
)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="The anonymiser's; none is shipped.",
)
def command(
    inputs: tuple[Path, ...],
    output: Path,
    strength: float | None,
    bundle: Path,
    backend: str | BackendFactory | TritonServer,
    in_flight: int,
    min_face: int | None,
    threads: int | None,
    overwrite: bool,
    replace_input: bool,
    exif: str,
    as_json: bool,
    metrics_file: Path | None,
) -> None:
    """Replace every face in photos by one that face recognisers should still know.

    IN are pictures or folders of pictures; folders are searched to the bottom. Outside the faces no pixel
    changes: hair, clothes and place stay. The noise comes from the operating system and is not kept, so no
    two results are the same; publish one of each photo. A picture in which no face is found is an error and
    is not copied.
    """
    jobs = plan_jobs(inputs, output)

    from ..anonymiser import Anonymiser
    from ..detection import FaceDetector
    from ..manifest import open_bundle

    opened = open_bundle(bundle)
    if opened.manifest.training.get("stochastic") is False:
        click.echo(
            "Warning: this bundle is the ablation without noise: its results can be computed again.", err=True
        )
    metrics = Metrics(metrics_file)
    detector = FaceDetector.from_bundle(opened, threads=threads, min_face_px=min_face)
    with Anonymiser(
        opened, backend=backend, threads=threads, detector=detector, watch=metrics.watch
    ) as anonymiser:
        say_backend(anonymiser.backend)
        strength = anonymiser.check_strength(strength)
        run_batch(
            jobs,
            lambda pixels: anonymiser.anonymise(pixels, strength=strength),
            WriteOptions(exif=exif, overwrite=overwrite, replace_input=replace_input),
            verb="anonymised",
            as_json=as_json,
            in_flight=in_flight,
            metrics=metrics,
            extra={
                "bundle": opened.manifest.name,
                "backend": anonymiser.backend,
                "strength": strength,
            },
        )
