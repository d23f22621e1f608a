"""``benchmarks.latency photo``: whole photos by stage, cold start and memory, and the networks by batch.

Every backend that works here protects and erases the same photos, all in one process and in turns, so that
what else the machine does meets all of them. Peers are not among them: they have other stages, or none.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from PIL import Image
from rich.progress import track

from runtime.backends import create_backend
from runtime.errors import BackendError
from runtime.pictures import read_picture
from runtime.pipeline import Eraser, Protector

from ..bundles import Bundles
from ..common import as_click_errors, environment
from ..schema import write_result
from .batches import aligned_faces, sweep
from .cold import cold_start
from .networks import SETTLE_S, keep_fastest
from .photo_table import show
from .stages import StageClock, Work, spread, spread_of_stages, time_photo

ROOT = Path(__file__).parents[2]
PACKAGED = (
    ROOT / "examples" / "portrait.jpg",
    ROOT / "tests" / "pictures" / "hopper.jpg",
    ROOT / "examples" / "group.jpg",
)
# As large as a telephone's: the last packaged picture, enlarged.
ENLARGED_PX = (4000, 2500)

BACKENDS = ("ort-cpu", "openvino-fp32", "openvino-bf16")
VERBS = ("protect", "erase")
BATCHES = (1, 2, 4, 8, 16, 32, 64)


@click.command()
@click.option(
    "--bundle", type=click.Path(path_type=Path), help="With public/ and authority/; default: shipped."
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
    """Times protecting and erasing whole photos, backends side by side."""
    torch.set_num_threads(threads)
    rates: dict[str, float] = {}
    with as_click_errors(), tempfile.TemporaryDirectory() as scratch:
        bundles = Bundles.open(bundle, key)
        usable, missing = split_by_usable(backends, bundles, threads)
        photos = by_stem(pictures) or packaged(Path(scratch))
        keep_fastest(rates, torch.device("cpu"))
        shown, staged = time_photos(photos, usable, bundles, Path(scratch), threads=threads, rounds=rounds)
        cold = time_cold(
            smallest_and_largest(photos, shown),
            usable,
            bundles,
            Path(scratch),
            threads=threads,
            runs=cold_runs,
        )
        networks = sweep(
            aligned_faces(next(iter(photos.values())), bundles.public, max(batches)),
            usable,
            bundles,
            batches=batches,
            threads=threads,
            rounds=sweep_rounds,
        )
        keep_fastest(rates, torch.device("cpu"))
    for network in networks.values():
        network["floor_ms"] = floor_ms = 1e3 * network["flops_per_face"] / max(rates.values())
        network["programs"] = [
            row | {"times_floor": row["ms_per_face"] / floor_ms} for row in network["programs"]
        ]
    result = {
        "benchmark": "photo",
        "environment": environment(),
        "bundle": bundles.about("protect", "attributes"),
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
    backends: Sequence[str], bundles: Bundles, threads: int
) -> tuple[list[str], dict[str, str]]:
    """The backends that work here, and why others do not, by their name.

    Raises:
        BackendError: none works.
    """
    usable, missing = [], {}
    for name in backends:
        try:
            create_backend(name, bundles.network("protect"), threads=threads).close()
        except BackendError as error:
            missing[name] = str(error)
        else:
            usable.append(name)
    if not usable:
        raise BackendError(f"no backend works here: {'; '.join(missing.values())}")
    return usable, missing


def time_photos(
    photos: Mapping[str, Path],
    backends: Sequence[str],
    bundles: Bundles,
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
            (verb, backend): stack.enter_context(_pipeline(verb, backend, bundles, threads))
            for backend in backends
            for verb in VERBS
        }
        for name, source in photos.items():
            pixels = read_picture(source).pixels
            faces = jobs["protect", backends[0]].work(pixels).faces
            shown[name] = {"width_px": pixels.shape[1], "height_px": pixels.shape[0], "faces": len(faces)}
        for turn in track(range(rounds + 1), "photos"):  # the first one prepares and is not timed
            for name, original in photos.items():
                published = scratch / f"{name}-protected.jpg"
                first = turn % len(jobs)  # whoever comes first after another photo finds other caches
                for verb, backend in [*jobs][first:] + [*jobs][:first]:
                    job = jobs[verb, backend]
                    protects = verb == "protect"
                    source, target = (
                        (original, published) if protects else (published, scratch / "restored.jpg")
                    )
                    time.sleep(SETTLE_S)
                    call = time_photo(job.work, source, target, job.clock)
                    if turn:
                        taken.setdefault((backend, verb, name), []).append(call)
    return shown, [
        {"backend": backend, "verb": verb, "picture": name, **spread_of_stages(taken[backend, verb, name])}
        for name in photos
        for verb, backend in jobs
    ]


@dataclass(frozen=True, kw_only=True)
class _Job:
    work: Work
    clock: StageClock


@contextmanager
def _pipeline(verb: str, backend: str, bundles: Bundles, threads: int) -> Iterator[_Job]:
    clock = StageClock()
    if verb == "protect":
        with Protector(bundles.public, backend=backend, threads=threads, watch=clock.watch) as protector:
            yield _Job(work=protector.protect, clock=clock)
    else:
        with Eraser(
            bundles.authority, bundles.restorer, backend=backend, threads=threads, watch=clock.watch
        ) as eraser:
            yield _Job(work=eraser.erase, clock=clock)


def smallest_and_largest(photos: Mapping[str, Path], shown: Mapping[str, Any]) -> dict[str, Path]:
    """The two pictures with the fewest and the most pixels."""
    by_size = sorted(photos, key=lambda name: shown[name]["width_px"] * shown[name]["height_px"])
    return {name: photos[name] for name in (by_size[0], by_size[-1])}


def time_cold(
    photos: Mapping[str, Path],
    backends: Sequence[str],
    bundles: Bundles,
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
            for verb in VERBS:
                for backend in backends:
                    common = ["--overwrite", "--backend", backend, "--threads", str(threads)]
                    published = scratch / f"{name}-protected.jpg"
                    if verb == "protect":
                        files = [str(original), "-o", str(published), "--bundle", str(bundles.public.folder)]
                    else:
                        files = [str(published), "-o", str(scratch / "restored.jpg")]
                        files += ["--bundle", str(bundles.authority.folder), "--key-file", str(bundles.key)]
                    start = cold_start([verb, *files, *common])
                    taken.setdefault((backend, verb, name), []).append(start)
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
