"""``erasablemask protect``: photos in, protected photos out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._batch import WriteOptions, run_batch
from ._files import picture_options, plan_jobs
from ._metrics import Metrics
from ._remote import backend_options_with_plans, say_backend

if TYPE_CHECKING:
    from ..backends import BackendFactory
    from ..backends.triton import TritonServer


def _parse_edits(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    edits = {}
    for value in values:
        name, equals, number = value.partition("=")
        if not name or not equals or number not in ("0", "1"):
            raise click.BadParameter(f"expected NAME=0 or NAME=1, found {value!r}")
        edits[name] = int(number)
    return edits


@click.command(
    epilog="""\b
    Example:
      erasablemask protect photos/ -o protected/ --set Bangs=1"""
)
@picture_options
@backend_options_with_plans
@click.option(
    "--set",
    "edits",
    multiple=True,
    callback=_parse_edits,
    metavar="NAME=0|1",
    help="Give every face an attribute, or take it away; repeatable. See inspect for the names.",
)
@click.option(
    "--strength", type=click.FloatRange(0, 1), help="Share of the perturbation.  [default: the bundle's]"
)
@click.option(
    "--injection", type=click.FloatRange(0, 1), help="Weight of clean detail.  [default: the bundle's]"
)
@click.option(
    "--bundle", type=click.Path(path_type=Path), metavar="FOLDER", help="[default: the shipped bundle]"
)
def command(
    inputs: tuple[Path, ...],
    output: Path,
    edits: dict[str, int],
    strength: float | None,
    injection: float | None,
    bundle: Path | None,
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
    """Protect every face in photos.

    IN are pictures or folders of pictures; folders are searched to the bottom. Full resolution is kept, and
    outside the faces no pixel changes. A picture in which no face is found is an error and is not copied.
    """
    jobs = plan_jobs(inputs, output)

    from ..detection import FaceDetector
    from ..manifest import open_bundle
    from ..pipeline import Protector
    from ..shipped import default_bundle

    opened = open_bundle(bundle or default_bundle("public"))
    if opened.manifest.demo:
        click.echo(
            "Warning: the key of this demo bundle's authority is public: anybody can erase the protection. "
            "Train and seal your own bundle for real use.",
            err=True,
        )
    metrics = Metrics(metrics_file)
    detector = FaceDetector.from_bundle(opened, threads=threads, min_face_px=min_face)
    with Protector(
        opened, backend=backend, threads=threads, detector=detector, watch=metrics.watch
    ) as protector:
        say_backend(protector.backend)
        # Before the first picture: a wrong name is one error, not one for each.
        knobs = protector.check_knobs(attributes=edits, strength=strength, injection=injection)
        run_batch(
            jobs,
            lambda pixels: protector.protect(pixels, **vars(knobs)),
            WriteOptions(exif=exif, overwrite=overwrite, replace_input=replace_input),
            verb="protected",
            as_json=as_json,
            in_flight=in_flight,
            metrics=metrics,
            extra={
                "bundle": opened.manifest.name,
                "demo": opened.manifest.demo,
                "backend": protector.backend,
                "strength": knobs.strength,
                "injection": knobs.injection,
            },
        )
