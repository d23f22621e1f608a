"""``python -m training``: trains a preset on a data set, all three stages; rerun it to resume."""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
from pathlib import Path

import click

EXAMPLE = """\b
Example:
  python -m training --preset compact --data celeba --surrogates fr/cards.json \\
      --target target.jpg --out runs/compact
"""


@click.command(epilog=EXAMPLE)
@click.option("--preset", required=True, help="compact or paper-256.")
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True), help="CelebA's folder.")
@click.option(
    "--surrogates", required=True, type=click.Path(path_type=Path, exists=True), help="Recognisers' cards."
)
@click.option("--only", multiple=True, help="Name of a surrogate to use; all white-box ones if not given.")
@click.option(
    "--target", required=True, type=click.Path(path_type=Path, exists=True), help="Picture(s) of the target."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The run's folder; resumed.")
@click.option("--cache", type=click.Path(path_type=Path), help="Prepared faces; default: beside the run.")
@click.option("--set", "assignments", multiple=True, metavar="FIELD=VALUE", help="Overrides the preset.")
@click.option("--threads", type=int, help="CPU threads.")
@click.option("--steps", type=int, help="Stop after so many steps; the run can be resumed.")
@click.option("--limit", type=int, help="Use only the first so many training pictures.")
def main(
    preset: str,
    data: Path,
    surrogates: Path,
    only: tuple[str, ...],
    target: Path,
    out: Path,
    cache: Path | None,
    assignments: tuple[str, ...],
    threads: int | None,
    steps: int | None,
    limit: int | None,
) -> None:
    """Trains generator, discriminator and restorer in the paper's three stages.

    A run lives in its folder: rerun the same command to go on where it stopped.
    """
    from .checkpoint import CheckpointError
    from .config import PRESETS, override
    from .data.errors import DataError
    from .surrogates.card import SurrogateError

    if preset not in PRESETS:
        raise click.BadParameter(
            f"expected one of {', '.join(PRESETS)}, found {preset!r}", param_hint="--preset"
        )
    try:
        config = override(PRESETS[preset], list(assignments))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--set") from error
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        _train(
            config, data, surrogates, only, target, out, cache or out.parent / "cache", threads, steps, limit
        )
    except (CheckpointError, DataError, SurrogateError) as error:
        raise click.ClickException(str(error)) from error


def _train(config, data, surrogates, only, target, out, cache, threads, steps, limit) -> None:
    import numpy as np
    import torch
    from rich.progress import track

    from .batches import take
    from .data import pack_faces, read_celeba
    from .data.celeba import ATTRIBUTES, TRAIN, VALIDATION
    from .loop import Run
    from .monitor import RunMonitor, fixed_threads
    from .stages import AttackStage, AttributeStage, ErasureStage, Networks
    from .stages.publish import Publish
    from .surrogates import load_cards, load_recognizer, select_white_box
    from .target import target_embeddings, target_pictures

    fixed_threads(threads)
    torch.manual_seed(config.seed)
    size = config.network.image_size
    packs = {}
    for name, partition in (("train", TRAIN), ("validation", VALIDATION)):
        records = read_celeba(data, partition)[:limit]
        suffix = f"-first{limit}" if limit else ""
        packs[name] = pack_faces(
            records,
            cache / f"{data.name}-{name}-{size}{suffix}",
            size,
            progress=lambda batches, name=name: track(batches, f"landmarks, {name}"),
        )

    recognizers = [load_recognizer(card) for card in select_white_box(load_cards(surrogates), only)]
    pictures = target_pictures(target)
    targets = target_embeddings(pictures, recognizers)

    networks = Networks(config.network.generator(), config.network.restorer(), config.network.discriminator())
    for network in networks.items().values():
        network.to(memory_format=torch.channels_last)
    publish = Publish(size, masked=config.paste_mask)
    settings = config.attack_settings
    stages = [
        AttributeStage(networks, config.attributes),
        AttackStage(
            networks,
            config.attack,
            attack=settings,
            noise=config.noise,
            surrogates=recognizers,
            targets=targets,
            publish=publish,
        ),
        ErasureStage(networks, config.erasure, attack=settings, noise=config.noise, publish=publish),
    ]
    about = {
        "preset": config.name,
        "attributes": list(ATTRIBUTES),
        "commit": _commit(),
        "seed": config.seed,
        "data": data.name,
        "faces": len(packs["train"]),
        "surrogates": [recognizer.card.name for recognizer in recognizers],
        "target": ", ".join(picture.name for picture in pictures),
    }
    run = Run(out, config, networks, stages, packs["train"], about)
    (out / "config.json").write_text(
        json.dumps({"about": about, "config": dataclasses.asdict(config)}, indent=2) + "\n"
    )
    sample = take(packs["validation"], np.arange(min(8, len(packs["validation"]))), np.zeros(8, dtype=bool))
    with RunMonitor.display() as progress:
        monitor = RunMonitor(run, sample, publish, progress)
        try:
            run.train(monitor, stop_after_steps=steps)
        finally:
            monitor.close()


def _commit() -> str:
    """The checkout's commit, or ``unknown`` outside one."""
    try:
        return subprocess.run(
            ["git", "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    main()
