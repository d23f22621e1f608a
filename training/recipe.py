"""From a job to a trained run: data, recognisers, networks and stages, put together."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from .batches import take
from .config import AnonymiserConfig, RunConfig, SharedConfig
from .data import FacePack, Labeller, Split, load_pack, pack_faces, prepared_pack, read_faces
from .data.errors import DataError
from .fingerprint import FIELD
from .labels import RunLabeller
from .loop import Run
from .monitor import RunMonitor, Unwatched, fixed_threads
from .ranks import Ranks, launch
from .surrogates import Recognizer, load_cards, load_recognizer, select_white_box
from .tasks import AnonymiserTask, MaskTask, Task

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
        target: picture, or folder of pictures, of the target identity; the anonymiser has none.
        target_text: description of the target for the bundle's users; None for its file names.
        out: the run's folder.
        cache: where prepared faces are kept.
        continues: a run whose networks this one begins with, or None.
        first_stage: name of the stage a run that continues another begins at.
        keep_trained: it keeps what the other has trained in that stage already.
        lpips_trunk: torchvision's AlexNet weights, for a preset with the loss ``lpips``.
        limit: use only the first so many pictures of each split.
    """

    config: SharedConfig
    data: Path
    layout: str | None
    label_with: Path | None
    surrogates: Path
    only: Sequence[str]
    target: Path | None
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
    task = _task(job, recognizers, ranks)
    labeller = RunLabeller(job.label_with) if job.label_with else None
    with ranks.first_goes_ahead():
        faces = _faces(job, Split.TRAIN, labeller)
        validation = _faces(job, Split.VALIDATION, labeller)
    torch.manual_seed(config.seed)  # here: what was prepared above may have drawn random numbers
    networks = config.network.networks().placed(ranks.place)
    run = Run(
        job.out,
        config,
        networks,
        task.stages(networks, ranks),
        faces,
        {
            "preset": config.name,
            "seed": config.seed,
            "data": job.data.name,
            "faces": len(faces),
            "labelled_by": faces.labelled_by,
            "surrogates": [recognizer.card.name for recognizer in recognizers],
            FIELD: {r.card.name: dataclasses.asdict(r.fingerprint()) for r in recognizers},
            **task.about,
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
        monitor = RunMonitor(run, partial(task.grid, sample=sample), progress)
        try:
            run.train(monitor, stop_after_steps=steps)
        finally:
            monitor.close()


def _task(job: Job, recognizers: Sequence[Recognizer], ranks: Ranks) -> Task:
    """What the job's system trains towards; the recognisers are then where they train.

    Raises:
        DataError: the mask has no target, or it cannot be used.
        PerceptualError: LPIPS's weights cannot be used.
    """
    if isinstance(job.config, AnonymiserConfig):
        return AnonymiserTask(job.config, [recognizer.to(ranks.device) for recognizer in recognizers])
    assert isinstance(job.config, RunConfig)
    if job.target is None:
        raise DataError("the mask needs a target; name a picture of it with --target")
    return MaskTask.prepare(
        job.config,
        recognizers,
        target=job.target,
        target_text=job.target_text,
        lpips_trunk=job.lpips_trunk,
        device=ranks.device,
    )


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


def _write_config(folder: Path, config: SharedConfig, about: dict[str, Any]) -> None:
    text = json.dumps({"about": about, "config": config.to_dict()}, indent=2)
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
