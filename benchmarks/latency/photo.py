"""``benchmarks.latency photo``: whole photos by stage, cold start and memory, and the networks by batch.

Every backend that works here protects and erases the same photos, or anonymises them, as the bundle does, all
in one process and in turns, so that what else the machine does meets all of them. Peers are not among them:
they have other stages, or none.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from PIL import Image
from rich.progress import track

from runtime.errors import BackendError
from runtime.pictures import read_picture

from ..common import as_click_errors, environment
from ..schema import write_result
from .batches import aligned_faces, sweep
from .cold import cold_start
from .networks import SETTLE_S, keep_fastest
from .photo_table import show
from .stages import spread, spread_of_stages, time_photo
from .verbs import Verb, open_timed

ROOT = Path(__file__).parents[2]
PACKAGED = (
    ROOT / "examples" / "portrait.jpg",
    ROOT / "tests" / "pictures" / "hopper.jpg",
    ROOT / "examples" / "group.jpg",
)
# As large as a telephone's: the last packaged picture, enlarged.
ENLARGED_PX = (4000, 2500)

BACKENDS = ("ort-cpu", "openvino-fp32", "openvino-bf16")
BATCHES = (1, 2, 4, 8, 16, 32, 64)


@click.command()
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="With public/ and, but for an anonymiser, authority/; default: shipped.",
)
@click.option("--key", type=click.Path(path_type=Path), help="Default: the demo key of the bundle.")
@click.option(
    "--picture",
    "pictures",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="Default: the packaged ones, and the group enlarged to a telephone's size.",
)
@click.option("--backend", "backends", multiple=True, default=BACKENDS, show_default=True)
@click.option("--threads", default=2, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--rounds", default=20, show_default=True, type=click.IntRange(min=3), help="Each photo, timed."
)
@click.option("--cold-runs", default=5, show_default=True, type=click.IntRange(min=0))
@click.option(
    "--batch", "batches", multiple=True, default=BATCHES, show_default=True, type=click.IntRange(1, 64)
)
@click.option("--sweep-rounds", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="JSON file to write.")
def command(
    bundle: Path | None,
    key: Path | None,
    pictures: tuple[Path, ...],
    backends: tuple[str, ...],
    threads: int,
    rounds: int,
    cold_runs: int,
    batches: tuple[int, ...],
    sweep_rounds: int,
    out: Path,
) -> None:
    """Times protecting and erasing, or anonymising, whole photos, backends side by side."""
    torch.set_num_threads(threads)
    rates: dict[str, float] = {}
    with as_click_errors(), tempfile.TemporaryDirectory() as scratch:
        timed = open_timed(bundle, key)
        verbs = timed.verbs
        usable, missing = split_by_usable(backends, verbs, threads)
        photos = by_stem(pictures) or packaged(Path(scratch))
        keep_fastest(rates, torch.device("cpu"))
        shown, staged = time_photos(photos, usable, verbs, Path(scratch), threads=threads, rounds=rounds)
        cold = time_cold(
            smallest_and_largest(photos, shown),
            usable,
            verbs,
            Path(scratch),
            threads=threads,
            runs=cold_runs,
        )
        networks = sweep(
            aligned_faces(next(iter(photos.values())), timed.public, max(batches)),
            usable,
            verbs,
            batches=batches,
            threads=threads,
            rounds=sweep_rounds,
        )
        keep_fastest(rates, torch.device("cpu"))
    rate = rates["fp32"] if timed.in_float32 else max(rates.values())
    for network in networks.values():
        network["floor_ms"] = floor_ms = 1e3 * network["flops_per_face"] / rate
        network["programs"] = [
            row | {"times_floor": row["ms_per_face"] / floor_ms} for row in network["programs"]
        ]
    result = {
        "benchmark": "photo",
        "environment": environment(),
        "bundle": timed.about,
        "settings": {
            "threads": threads,
            "rounds": rounds,
            "cold_runs": cold_runs,
            "sweep_rounds": sweep_rounds,
        },
        "missing": missing,
        "pictures": shown,
        "photos": staged,
        "cold": cold,
        "matrix_rate_flops": rates,
        "networks": networks,
    }
    write_result(result, out)
    show(result)


def by_stem(pictures: Sequence[Path]) -> dict[str, Path]:
    """Pictures by what rows call them.

    Raises:
        ValueError: two would be called the same.
    """
    photos = {path.stem: path for path in pictures}
    if len(photos) < len(pictures):
        raise ValueError(f"expected pictures of different names, found {', '.join(map(str, pictures))}")
    return photos


def packaged(scratch: Path) -> dict[str, Path]:
    """The packaged pictures by name, and the last of them enlarged."""
    photos = {path.stem: path for path in PACKAGED}
    last = PACKAGED[-1]
    large = scratch / f"{last.stem}-large.jpg"
    Image.open(last).resize(ENLARGED_PX, Image.Resampling.LANCZOS).save(large, quality=95)
    return {**photos, large.stem: large}


def split_by_usable(
    backends: Sequence[str], verbs: Sequence[Verb], threads: int
) -> tuple[list[str], dict[str, str]]:
    """The backends that work here, and why others do not, by their name.

    Raises:
        BackendError: none works.
    """
    usable, missing = [], {}
    for name in backends:
        try:
            with verbs[0].open(name, threads):
                usable.append(name)
        except BackendError as error:
            missing[name] = str(error)
    if not usable:
        raise BackendError(f"no backend works here: {'; '.join(missing.values())}")
    return usable, missing


def time_photos(
    photos: Mapping[str, Path],
    backends: Sequence[str],
    verbs: Sequence[Verb],
    scratch: Path,
    *,
    threads: int,
    rounds: int,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Every verb of every backend on every photo, in turns.

    Returns:
        What the pictures are, and a row a backend, verb and picture.

    Raises:
        ErasableMaskError: a photo cannot be read or shows no face.
    """
    shown: dict[str, Any] = {}
    taken: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    with ExitStack() as stack:
        jobs = {
            (verb.name, backend): (verb, stack.enter_context(verb.open(backend, threads)))
            for backend in backends
            for verb in verbs
        }
        for name, source in photos.items():
            pixels = read_picture(source).pixels
            faces = jobs[verbs[0].name, backends[0]][1].work(pixels).faces
            shown[name] = {"width_px": pixels.shape[1], "height_px": pixels.shape[0], "faces": len(faces)}
        for turn in track(range(rounds + 1), "photos"):  # the first one prepares and is not timed
            for name, original in photos.items():
                published = scratch / f"{name}-published.jpg"
                first = turn % len(jobs)  # whoever comes first after another photo finds other caches
                for key in [*jobs][first:] + [*jobs][:first]:
                    verb, job = jobs[key]
                    source, target = _files(verb, original, published)
                    time.sleep(SETTLE_S)
                    call = time_photo(job.work, source, target, job.clock)
                    if turn:
                        taken.setdefault((*key, name), []).append(call)
    return shown, [
        {"backend": backend, "verb": verb, "picture": name, **spread_of_stages(taken[verb, backend, name])}
        for name in photos
        for verb, backend in jobs
    ]


def _files(verb: Verb, original: Path, published: Path) -> tuple[Path, Path]:
    """What a verb reads and writes."""
    return (published, published.with_name("restored.jpg")) if verb.on_published else (original, published)


def smallest_and_largest(photos: Mapping[str, Path], shown: Mapping[str, Any]) -> dict[str, Path]:
    """The two pictures with the fewest and the most pixels."""
    by_size = sorted(photos, key=lambda name: shown[name]["width_px"] * shown[name]["height_px"])
    return {name: photos[name] for name in (by_size[0], by_size[-1])}


def time_cold(
    photos: Mapping[str, Path],
    backends: Sequence[str],
    verbs: Sequence[Verb],
    scratch: Path,
    *,
    threads: int,
    runs: int,
) -> list[dict[str, Any]]:
    """Cold starts of every verb and backend, in turns; a row each.

    Raises:
        ValueError: one failed.
    """
    taken: dict[tuple[str, str, str], list[tuple[float, float | None]]] = {}
    for _ in track(range(runs), "cold starts"):
        for name, original in photos.items():
            for verb in verbs:
                for backend in backends:
                    source, target = _files(verb, original, scratch / f"{name}-published.jpg")
                    common = ["--overwrite", "--backend", backend, "--threads", str(threads)]
                    start = cold_start([verb.name, str(source), "-o", str(target), *verb.options, *common])
                    taken.setdefault((backend, verb.name, name), []).append(start)
    return [
        {
            "backend": backend,
            "verb": verb,
            "picture": name,
            "first_photo_ms": spread([ms for ms, _ in starts]),
            "peak_mib": median(mib for _, mib in starts if mib is not None) if starts[0][1] else None,
        }
        for (backend, verb, name), starts in taken.items()
    ]
