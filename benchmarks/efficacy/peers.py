"""``benchmarks.efficacy peers``: other people's ways to protect a face beside ours (Table II).

Every attack works on the same aligned crops against the same white-box recognisers and target, and goes back
into the photo as our network's output does. Finished rows are kept: stop it and rerun the command to go on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import track

from runtime.errors import ErasableMaskError
from runtime.manifest import open_bundle
from runtime.shipped import default_bundle
from training.checkpoint import CheckpointError
from training.data import DataError
from training.evaluation.statistics import write_json
from training.perceptual import Lpips
from training.surrogates import SurrogateError

from ..common import digest_of, digest_of_files, environment, names_below
from ..schema import write_result
from .attacks.base import UnbuildableError
from .attacks.registry import PEERS, Means, Peer
from .attacks.surrogates import load_surrogates
from .peer_rows import Comparison
from .peer_table import markdown, table_of
from .protocol import Laboratory, chosen_pictures, laboratory_options
from .suspicion import finish

_EXISTING = click.Path(path_type=Path, exists=True)


def measure(
    chosen: Iterable[Peer], means: Means, comparison: Comparison, files: Iterable[Path], folder: Path
) -> Iterator[dict[str, Any]]:
    """Runs the whole protocol over peers, and gives the result so far after each.

    Args:
        files: other files on which every row depends.
        folder: of the kept rows.

    Raises:
        NoFaceError: there is none in the target's picture, or in any of the pictures.
    """
    with Laboratory(**comparison.laboratory) as laboratory:
        about = laboratory.about("peers")
        recognizers = {recognizer.name: recognizer.sha256 for recognizer in laboratory.recognizers}
        doubts = laboratory.doubts()
    pictures = {
        "pictures": len(comparison.paths),
        "pictures_sha256": digest_of_files(comparison.paths),
        "seed": comparison.seed,
    }
    asked = {
        **pictures,
        "bundle": about["bundle"]["sha256"],
        "recognizers": recognizers,
        "jpeg_quality": about["jpeg_quality"],
        "files": digest_of_files(files),
    }
    rows: dict[str, Any] = {}
    for peer in chosen:
        click.echo(peer.name, err=True)
        rows[peer.name] = row = measured_row(peer, means, comparison, asked, folder)
        doubts += [
            {**doubt, "found": f"{peer.name}, {doubt['found']}"} for doubt in row.get("suspicions", ())
        ]
        yield {
            **about,
            **pictures,
            "surrogates": means.surrogates.names,
            "peers": rows,
            "suspicions": doubts,
        }


def measured_row(
    peer: Peer, means: Means, comparison: Comparison, asked: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """A peer's row: the one that was kept of the same question, or measured now and kept.

    Args:
        asked: what the row depends on beside the attack's settings.
        folder: of the kept rows.
    """
    about = {"paper": peer.paper, "differs": peer.differs}
    try:
        attack = peer.make(means)
    except UnbuildableError as error:
        return {**about, "reason": str(error)}
    settings = attack.settings if attack is not None else {}
    whole = {**asked, "peer": peer.name, "settings": settings}
    kept = f"{slug(peer.name)}-{digest_of(whole)[:12]}"
    path = folder / f"{kept}.json"
    if not path.exists():
        row = {
            **about,
            "settings": settings,
            **comparison.measure(attack, kept),
            "environment": environment(),
        }
        write_json(row, path)
    # What is told of a peer may have been said better since.
    return json.loads(path.read_text(encoding="utf-8")) | about


def slug(name: str) -> str:
    """A name as part of a file's name."""
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())


def chosen_peers(names: Sequence[str]) -> list[Peer]:
    """The peers of these names, all for none.

    Raises:
        ValueError: there is no such peer.
    """
    known = {peer.name: peer for peer in PEERS}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no peer {', '.join(unknown)}; there are: {', '.join(known)}")
    return [known[name] for name in names or known]


@click.command()
@click.option("--images", required=True, type=_EXISTING, help="Or CelebA's root.")
@click.option("--count", default=100, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the pictures and of the attacks.")
@click.option("--run", type=_EXISTING, help="The bundle's training run, for its stage-1 networks.")
@click.option("--pack", type=_EXISTING, help="A pack of aligned training faces, for AdvFaces.")
@click.option(
    "--peers-folder", required=True, type=click.Path(path_type=Path), help="Keeps trained and done."
)
@click.option("--advfaces-steps", type=click.IntRange(min=1), help="How long AdvFaces is trained.")
@click.option("--only", multiple=True, help="Name of a peer; all if not given.")
@click.option("--lpips-alex", type=_EXISTING, help="AlexNet's weights, for LPIPS.")
@click.option("--markdown", "document", type=click.Path(path_type=Path), help="Write the table there, too.")
@click.option("--out", required=True, type=click.Path(path_type=Path))
@laboratory_options
def command(
    images: Path,
    count: int,
    seed: int,
    run: Path | None,
    pack: Path | None,
    peers_folder: Path,
    advfaces_steps: int | None,
    only: tuple[str, ...],
    lpips_alex: Path | None,
    document: Path | None,
    out: Path,
    **laboratory: Any,
) -> None:
    """Attack success and picture quality of other people's methods and of a bundle."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        chosen = chosen_peers(only)
        paths, data = chosen_pictures(images, count, seed)
        bundle = laboratory["bundle"] or default_bundle("public").parent
        crop_px = open_bundle(bundle / "public").manifest.image_size
        means = Means(
            surrogates=load_surrogates(laboratory["cards"], laboratory["target"], crop_px),
            run=run,
            pack=pack,
            folder=peers_folder,
            training={"steps": advfaces_steps} if advfaces_steps else {},
            progress=lambda steps: track(list(steps), "training AdvFaces"),
        )
        comparison = Comparison(
            paths=paths,
            laboratory=laboratory,
            perceptual={"lpips_alex": Lpips("alex", lpips_alex)} if lpips_alex else {},
            seed=seed,
            folder=peers_folder / "batches",
        )
        files = [laboratory["target"], laboratory["thresholds"], *([lpips_alex] if lpips_alex else [])]
        result: dict[str, Any] = {}
        for result in measure(chosen, means, comparison, files, peers_folder / "rows"):
            write_result(result | {"data": data, "picture_list": names_below(images, paths)}, out)
    except (ErasableMaskError, CheckpointError, DataError, SurrogateError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    Console(width=190).print(table_of(result))
    if document:
        document.write_text(markdown(result), encoding="utf-8")
    finish(result)
