"""Runs one piece of work over many pictures and reports what happened to each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from ..errors import ErasableMaskError, ImageError, NoFaceError
from ._files import Job, with_progress
from ._metrics import Metrics

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..results import AnonymiseResult, EraseResult, ProtectResult

    Work = Callable[[NDArray[np.uint8]], ProtectResult | EraseResult | AnonymiseResult]

# A picture's part of the report.
Entry = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """How results are written, see ``runtime.pictures.write_picture``."""

    exif: Any
    overwrite: bool
    replace_input: bool


def run_batch(
    jobs: Sequence[Job],
    work: Work,
    options: WriteOptions,
    *,
    verb: str,
    as_json: bool,
    in_flight: int,
    metrics: Metrics,
    extra: Mapping[str, Any],
) -> None:
    """Attempts every picture; a failed one leaves no output file and does not stop the others.

    Args:
        jobs: what to read and write.
        work: from a picture's pixels to its result.
        options: how to write.
        verb: the past participle for the report, such as ``protected``.
        as_json: print the report as JSON on stdout instead of lines.
        in_flight: pictures worked on at once; the report keeps their order.
        metrics: gets what happened, and is written at the end.
        extra: further fields of the JSON report.

    Raises:
        ErasableMaskError: the metrics cannot be written.
        click.exceptions.Exit: code 1, a picture failed.
    """
    entries = []
    attempts = _in_order(lambda job: _attempt(job, work, options, metrics), jobs, in_flight)
    for entry in with_progress(attempts, len(jobs), verb.capitalize()):
        entries.append(entry)
        if entry["error"] is None and not as_json:
            count = len(entry["faces"])
            click.echo(f"{entry['output']}: {count} face{'s' if count != 1 else ''} {verb}")
    metrics.write()
    failed = [entry for entry in entries if entry["error"] is not None]
    if as_json:
        click.echo(json.dumps({**extra, "pictures": entries}, indent=2))
    for entry in failed:
        # Most errors name the file already.
        named = entry["input"] in entry["error"] or len(jobs) == 1
        click.echo(
            f"Error: {entry['error']}" if named else f"Error: {entry['input']}: {entry['error']}", err=True
        )
    if failed:
        if len(jobs) > 1:
            click.echo(
                f"{len(failed)} of {len(jobs)} pictures failed; nothing was written for them", err=True
            )
        raise click.exceptions.Exit(1)


def _in_order(attempt: Callable[[Job], Entry], jobs: Sequence[Job], in_flight: int) -> Iterator[Entry]:
    """What comes of every job, in their order."""
    if in_flight == 1:
        yield from map(attempt, jobs)
        return
    workers = ThreadPoolExecutor(in_flight, thread_name_prefix="picture")
    try:
        yield from workers.map(attempt, jobs)
    finally:  # interrupted, only what has been begun is finished
        workers.shutdown(cancel_futures=True)


def _attempt(job: Job, work: Work, options: WriteOptions, metrics: Metrics) -> Entry:
    entry: Entry = {"input": str(job.source), "output": str(job.target), "faces": [], "error": None}
    try:
        entry["faces"] = _run_one(job, work, options, metrics)
    except ErasableMaskError as error:
        metrics.count("photos_without_face" if isinstance(error, NoFaceError) else "failures")
        return entry | {"output": None, "error": str(error)}
    metrics.count("photos")
    metrics.count("faces", len(entry["faces"]))
    return entry


def _run_one(job: Job, work: Work, options: WriteOptions, metrics: Metrics) -> list[dict[str, Any]]:
    from ..pictures import check_output, make_folder, read_picture, write_picture

    if not job.source.exists():
        raise ImageError(f"there is no file {job.source}")
    check_output(
        job.target, source=job.source, overwrite=options.overwrite, replace_input=options.replace_input
    )
    with metrics.watch("decode"):
        picture = read_picture(job.source)
    result = work(picture.pixels)
    make_folder(job.target.parent)
    with metrics.watch("encode"):
        write_picture(
            picture,
            result.pixels,
            job.target,
            exif=options.exif,
            overwrite=options.overwrite,
            replace_input=options.replace_input,
        )
    return [face.to_dict() for face in result.faces]
