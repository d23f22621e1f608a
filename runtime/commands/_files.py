"""Which picture goes where: files and folders of the command line, resolved before any work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
Done = TypeVar("Done")

# Attempted when found in a folder: what cannot be read or written fails by name instead of being passed over.
PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".tif", ".tiff", ".bmp"}
    | {".gif", ".heic", ".heif", ".avif", ".jxl", ".jp2"}
)


@dataclass(frozen=True)
class Job:
    """One picture to read and the file to write."""

    source: Path
    target: Path


def picture_options(command: Command) -> Command:
    """The arguments and options that ``protect``, ``erase`` and ``anonymise`` share."""
    for decorate in (
        click.option(
            "--metrics",
            "metrics_file",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="Write counts and times of the run for Prometheus, as its node exporter reads them.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print a report as JSON."),
        click.option(
            "--exif",
            type=click.Choice(["private", "strip", "keep"]),
            default="private",
            show_default=True,
            help="What of the EXIF data to write: private leaves out places, names, serial numbers and "
            "comments. Never the thumbnail, which shows the face.",
        ),
        click.option("--replace-input", is_flag=True, help="Allow the output to be the input file."),
        click.option("--overwrite", is_flag=True, help="Replace output files that exist."),
        click.option(
            "--threads",
            type=click.IntRange(min=1),
            help="CPU threads for the networks.  [default: all cores]",
        ),
        click.option(
            "--min-face",
            type=click.IntRange(min=12),
            metavar="PX",
            help="Smallest face looked for.  [default: 20, or 1/60 of the picture's shorter side]",
        ),
        click.option(
            "-o",
            "--output",
            required=True,
            type=click.Path(path_type=Path),
            metavar="OUT",
            help="The file to write, or the folder if several pictures come in.",
        ),
        click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IN..."),
    ):
        command = decorate(command)
    return command


def plan_jobs(inputs: Sequence[Path], output: Path) -> list[Job]:
    """Pairs every picture with its output.

    One file goes to the file ``output``, or into it if it is a folder. Several files, and folders with
    everything below them, go into the folder ``output``, under their own names. A file that is missing is
    found out like one that cannot be read: by the work on it.

    Raises:
        click.UsageError: a folder holds no picture, or two outputs would be one file.
    """
    if len(inputs) == 1 and not inputs[0].is_dir() and not output.is_dir():
        return [Job(inputs[0], output)]
    if output.is_file():
        raise click.UsageError(f"several pictures cannot go into the one file {output}; name a folder")
    jobs = []
    for path in inputs:
        if not path.is_dir():
            jobs.append(Job(path, output / path.name))
            continue
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES and p.is_file())
        # An output folder inside the input folder holds earlier results, not pictures to do.
        nested = path.resolve() in output.resolve().parents
        found = [p for p in found if not (nested and output.resolve() in p.resolve().parents)]
        if not found:
            raise click.UsageError(f"the folder {path} holds no picture")
        jobs += [Job(p, output / p.relative_to(path)) for p in found]
    targets: dict[Path, Path] = {}
    for job in jobs:
        if (other := targets.setdefault(job.target, job.source)) != job.source:
            raise click.UsageError(f"{other} and {job.source} would both become {job.target}")
    return jobs


def with_progress(done: Iterable[Done], total: int, verb: str) -> Iterator[Done]:
    """Yields what is done behind a progress bar on stderr, which is drawn on terminals only."""
    from rich.console import Console
    from rich.progress import track

    yield from track(
        done,
        description=verb,
        total=total,
        console=Console(stderr=True),
        disable=total == 1,
        transient=True,
    )
