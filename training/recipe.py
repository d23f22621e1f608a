"""From a job to a trained run: data, recognisers, target, networks and stages, put together."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from .batches import take
from .config import RunConfig
from .data import ATTRIBUTES, FacePack, Labeller, Split, load_pack, pack_faces, prepared_pack, read_faces
from .data.errors import DataError
from .fingerprint import FIELD
from .labels import RunLabeller
from .loop import Run
from .monitor import RunMonitor, Unwatched, fixed_threads
from .perceptual import Lpips
from .ranks import Ranks, launch
from .stages import AttackStage, AttributeStage, ErasureStage, Networks, Stage
from .stages.publish import Publish
from .surrogates import Recognizer, load_cards, load_recognizer, select_white_box
from .target import target_embeddings, target_pictures

SAMPLES = 8  # faces in a sample grid


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to train, on what, and where.

    Attributes:
        data: folder of the data set, or of the prepared packs ``train`` and ``validation``.
        layout: name of its layout, see ``training.data.layouts``; None recognises it.
        label_with: a trained run that predicts the attributes of faces without labels, or None.
        surrogates: cards file of the recognisers.
        only: names of the surrogates; empty for every white-box one.
        target: picture, or folder of pictures, of the target identity.
        target_text: description of the target for the bundle's users; None for its file names.
        out: the run's folder.
        cache: where prepared faces are kept.
        continues: a run whose networks this one begins with, or None.
        first_stage: name of the stage a run that continues another begins at.
        keep_trained: it keeps what the other has trained in that stage already.
        lpips_trunk: torchvision's AlexNet weights, for a preset with the loss ``lpips``.
        limit: use only the first so many pictures of each split.
    """

    config: RunConfig
    data: Path
    layout: str | None
    label_with: Path | None
    surrogates: Path
    only: Sequence[str]
    target: Path
    target_text: str | None
    out: Path
    cache: Path
    continues: Path | None
    first_stage: str
    keep_trained: bool
    lpips_trunk: Path | None
    limit: int | None


def train(
    job: Job,
    *,
    threads: int | None = None,
    steps: int | None = None,
    accelerator: str = "auto",
    devices: int | None = None,
) -> None:
    """Trains a job to its end, or for ``steps`` steps; resumes the run in ``job.out`` if there is one.

    Args:
        accelerator, devices: see ``training.ranks.launch``.

    Raises:
        CheckpointError: the run's folder holds another configuration or a damaged checkpoint; or the
            run that labels has none.
        DataError: the data set or the target cannot be used.
        PerceptualError: LPIPS's weights cannot be used.
        ScaleError: the run cannot be spread over devices as asked.
        SurrogateError: a recogniser cannot be used.
    """
    config = job.config
    ranks = launch(accelerator=accelerator, devices=devices, precision=config.precision)
    fixed_threads(threads)
    recognizers = [load_recognizer(c) for c in select_white_box(load_cards(job.surrogates), job.only)]
    pictures = target_pictures(job.target)
    targets = [target.to(ranks.device) for target in target_embeddings(pictures, recognizers)]
    recognizers = [recognizer.to(ranks.device) for recognizer in recognizers]
    perceptual = Lpips("alex", job.lpips_trunk).to(ranks.device) if "lpips" in config.attack.weights else None
    labeller = RunLabeller(job.label_with) if job.label_with else None
    with ranks.first_goes_ahead():
        faces = _faces(job, Split.TRAIN, labeller)
        validation = _faces(job, Split.VALIDATION, labeller)
    publish = Publish(config.network.image_size, masked=config.paste_mask)
    torch.manual_seed(config.seed)  # here: what was prepared above may have drawn random numbers
    networks = make_networks(config, ranks)
    run = Run(
        job.out,
        config,
        networks,
        make_stages(config, networks, recognizers, targets, publish, perceptual, ranks),
        faces,
        {
            "preset": config.name,
            "attributes": list(ATTRIBUTES),
            "seed": config.seed,
            "data": job.data.name,
            "faces": len(faces),
            "labelled_by": faces.labelled_by,
            "surrogates": [recognizer.card.name for recognizer in recognizers],
            FIELD: {r.card.name: dataclasses.asdict(r.fingerprint()) for r in recognizers},
            "target": job.target_text or ", ".join(picture.name for picture in pictures),
            "target_sha256": [sha256(picture.read_bytes()).hexdigest() for picture in pictures],
        },
        commit=commit(),
        continues=job.continues,
        first_stage=job.first_stage,
        keep_trained=job.keep_trained,
        ranks=ranks,
    )
    if not ranks.first:
        run.train(Unwatched(), stop_after_steps=steps)
        return
    _write_config(job.out, config, run.about)
    count = min(SAMPLES, len(validation))
    sample = take(validation, np.arange(count), np.zeros(count, dtype=bool))
    with RunMonitor.display() as progress:
        monitor = RunMonitor(run, sample, publish, progress)
        try:
            run.train(monitor, stop_after_steps=steps)
        finally:
            monitor.close()


def _faces(job: Job, split: Split, labeller: Labeller | None) -> FacePack:
    name = split.name.lower()
    size_px = job.config.network.image_size
    if (job.data / name / "pack.json").exists():
        if job.layout is not None or labeller is not None:
            raise DataError(
                f"{job.data} holds prepared packs, which have a layout and labels of their own; "
                "leave out --layout and --label-with"
            )
        return prepared_pack(job.data / name, size_px).first(job.limit)
    suffix = f"-first{job.limit}" if job.limit else ""
    return pack_faces(
        read_faces(job.data, split, job.layout)[: job.limit],
        job.cache / f"{job.data.name}-{name}-{size_px}{suffix}",
        size_px,
        labeller=labeller,
        progress=lambda batches: track(batches, f"landmarks, {name}"),
    )


def face_count(data: Path, layout: str | None, limit: int | None) -> int:
    """How many pictures, or prepared faces, there are to train on; pictures may turn out to show none.

    Raises:
        DataError: the data set cannot be used.
    """
    prepared = data / "train"
    count = (
        len(load_pack(prepared))
        if (prepared / "pack.json").exists()
        else len(read_faces(data, Split.TRAIN, layout))
    )
    return count if limit is None else min(limit, count)


def make_networks(config: RunConfig, ranks: Ranks) -> Networks:
    """The networks of a run, with random weights, where they train."""
    network = config.network
    return Networks(
        ranks.place(network.generator()),
        ranks.place(network.restorer()),
        ranks.place(network.discriminator()),
    )


def make_stages(
    config: RunConfig,
    networks: Networks,
    recognizers: Sequence[Recognizer],
    targets: Sequence[Tensor],
    publish: Publish,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    ranks: Ranks | None = None,
) -> list[Stage]:
    """The paper's three stages, in order, for the same networks.

    Args:
        targets: unit-norm embedding ``(d_i,)`` of the target by each recogniser.
        perceptual: LPIPS, for a configuration that trains for it.
        ranks: the processes that share a batch, if there are several.
    """
    attack = config.attack_settings
    return [
        AttributeStage(networks, config.attributes),
        AttackStage(
            networks,
            config.attack,
            attack=attack,
            noise=config.noise,
            surrogates=recognizers,
            targets=targets,
            publish=publish,
            perceptual=perceptual,
            mean_over_ranks=ranks.mean if ranks else list,
        ),
        ErasureStage(
            networks,
            config.erasure,
            attack=attack,
            noise=config.noise,
            publish=publish,
            surrogates=recognizers,
            targets=targets,
            release_margin=config.release_margin,
            realignment=config.realignment,
        ),
    ]


def _write_config(folder: Path, config: RunConfig, about: dict[str, Any]) -> None:
    text = json.dumps({"about": about, "config": dataclasses.asdict(config)}, indent=2)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def commit() -> str:
    """The checkout's commit, with ``-dirty`` where files differ from it; ``unknown`` outside one."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
