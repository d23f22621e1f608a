"""``python -m training``: trains a system's preset on a data set, all its stages; rerun it to resume."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from .config import SharedConfig

EXAMPLE = """\b
Example:
  python -m training --preset compact --data celeba --surrogates fr/cards.json \\
      --target target.jpg --lpips-trunk alexnet.pth --out runs/compact
  python -m training --preset compact --dry-run
  python -m training --system anonymiser --preset compact --data celeba \\
      --surrogates fr/cards.json --out runs/anonymiser
"""

CELEBA_FACES = 162_770  # of its training partition

_EXISTING = click.Path(path_type=Path, exists=True)
_COUNT = click.IntRange(min=1)


@click.command(epilog=EXAMPLE)
@click.option(
    "--system",
    type=click.Choice(["mask", "anonymiser"]),
    default="mask",
    show_default=True,
    help="What to train; see docs/anonymiser.md for the second.",
)
@click.option("--preset", required=True, help="compact, or of the mask paper-256 or gpu-25min.")
@click.option(
    "--data", type=_EXISTING, help="CelebA's folder, CelebAMask-HQ's, any of pictures, or of prepared packs."
)
@click.option(
    "--layout",
    type=click.Choice(["celeba", "celebahq", "folder"]),
    help="Layout of --data; default: recognised by its files.",
)
@click.option(
    "--label-with",
    type=_EXISTING,
    help="A trained run whose discriminator predicts the attributes of pictures without labels.",
)
@click.option("--surrogates", type=_EXISTING, help="Recognisers' cards.")
@click.option("--only", multiple=True, help="Name of a surrogate to use; all white-box ones if not given.")
@click.option("--target", type=_EXISTING, help="Picture(s) of the mask's target.")
@click.option("--target-text", help="What to say of the target in the bundle; default: its file names.")
@click.option("--out", type=click.Path(path_type=Path), help="The run's folder; resumed.")
@click.option("--cache", type=click.Path(path_type=Path), help="Prepared faces; default: beside the run.")
@click.option(
    "--continue",
    "continues",
    type=_EXISTING,
    help="Begin a new run with the networks of this one.",
)
@click.option(
    "--from-stage",
    "first_stage",
    type=click.Choice(["attack", "erasure", "anonymise"]),
    help="With --continue: the stage to begin at.  [default: attack; of the anonymiser, anonymise]",
)
@click.option(
    "--keep-trained", is_flag=True, help="With --continue: keep what that run trained in the stage already."
)
@click.option(
    "--lpips-trunk",
    type=_EXISTING,
    help="torchvision's AlexNet weights, for a preset with the loss lpips (scripts/lpips_trunk.py).",
)
@click.option("--set", "assignments", multiple=True, metavar="FIELD=VALUE", help="Overrides the preset.")
@click.option(
    "--accelerator",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to train; auto: CUDA where there is some.",
)
@click.option("--devices", type=_COUNT, help="Processes here, a device each; default: torchrun's, or 1.")
@click.option(
    "--accumulate",
    type=_COUNT,
    help="Micro-batches of a step in each process; sets the preset's field.",
)
@click.option("--threads", type=_COUNT, help="CPU threads.")
@click.option("--steps", type=_COUNT, help="Stop after so many steps; the run can be resumed.")
@click.option("--limit", type=_COUNT, help="Use only the first so many pictures of each split.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Train nothing: tell parameters, FLOPs, memory and expected time. Needs only --preset.",
)
@click.option(
    "--json", "figures", type=click.Path(path_type=Path), help="With --dry-run: its figures, to a file."
)
def main(
    system: str,
    preset: str,
    data: Path | None,
    layout: str | None,
    label_with: Path | None,
    surrogates: Path | None,
    only: tuple[str, ...],
    target: Path | None,
    target_text: str | None,
    out: Path | None,
    cache: Path | None,
    continues: Path | None,
    first_stage: str | None,
    keep_trained: bool,
    lpips_trunk: Path | None,
    assignments: tuple[str, ...],
    accelerator: str,
    devices: int | None,
    accumulate: int | None,
    threads: int | None,
    steps: int | None,
    limit: int | None,
    dry_run: bool,
    figures: Path | None,
) -> None:
    """Trains the mask in the paper's three stages, or the anonymiser in its one.

    A run lives in its folder: rerun the same command to go on where it stopped.
    """
    from .checkpoint import CheckpointError
    from .config import RunConfig, SettingsError, override
    from .data.errors import DataError
    from .perceptual import PerceptualError
    from .presets import SYSTEMS
    from .ranks import ScaleError
    from .recipe import Job, train
    from .surrogates.card import SurrogateError

    presets = SYSTEMS[system]
    if preset not in presets:
        raise click.BadParameter(
            f"expected one of {', '.join(presets)}, found {preset!r}", param_hint="--preset"
        )
    if accumulate:
        assignments += (f"accumulate={accumulate}",)
    try:
        config = override(presets[preset], list(assignments))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--set") from error
    masks = isinstance(config, RunConfig)
    if not masks:
        options = {"--target": target, "--target-text": target_text, "--lpips-trunk": lpips_trunk}
        if given := [name for name, value in options.items() if value is not None]:
            raise click.UsageError(f"{given[0]} belongs to --system mask; the {system} has none")
    own_stages = ("attack", "erasure") if masks else ("anonymise",)
    if first_stage is not None and first_stage not in own_stages:
        raise click.UsageError(
            f"expected --from-stage {' or '.join(own_stages)} for the {system}, found {first_stage}"
        )
    if dry_run:
        _tell_plan(config, data, layout, surrogates, only, limit, threads, accelerator, figures)
        return
    if figures is not None:
        raise click.UsageError("--json is for the figures of --dry-run; a run's are in its log.jsonl")
    needed = {"--data": data, "--surrogates": surrogates, "--target": target, "--out": out}
    missing = [name for name, value in needed.items() if value is None and (masks or name != "--target")]
    if data is None or surrogates is None or out is None or missing:
        raise click.UsageError(f"missing {', '.join(missing)}; only --dry-run does without")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    job = Job(
        config=config,
        data=data,
        layout=layout,
        label_with=label_with,
        surrogates=surrogates,
        only=only,
        target=target,
        target_text=target_text,
        out=out,
        cache=cache or out.parent / "cache",
        continues=continues,
        first_stage=first_stage or own_stages[0],
        keep_trained=keep_trained,
        lpips_trunk=lpips_trunk,
        limit=limit,
    )
    try:
        train(job, threads=threads, steps=steps, accelerator=accelerator, devices=devices)
    except (CheckpointError, DataError, PerceptualError, ScaleError, SettingsError, SurrogateError) as error:
        raise click.ClickException(str(error)) from error


def _tell_plan(
    config: SharedConfig,
    data: Path | None,
    layout: str | None,
    surrogates: Path | None,
    only: tuple[str, ...],
    limit: int | None,
    threads: int | None,
    accelerator: str,
    figures: Path | None,
) -> None:
    import json

    from rich.console import Console

    from .config import SettingsError
    from .data.errors import DataError
    from .monitor import fixed_threads
    from .plan import make_plan
    from .plan_table import plan_figures, plan_table
    from .ranks import ScaleError, launch
    from .recipe import commit, face_count
    from .surrogates import load_cards, load_recognizer, select_white_box
    from .surrogates.card import SurrogateError

    try:
        ranks = launch(accelerator=accelerator, precision=config.precision)
        fixed_threads(threads)
        faces = limit or CELEBA_FACES if data is None else face_count(data, layout, limit)
        cards = select_white_box(load_cards(surrogates), only) if surrogates else []
        recognizers = [load_recognizer(card) for card in cards]
        plan = make_plan(config, recognizers, faces=faces, ranks=ranks)
    except (DataError, ScaleError, SettingsError, SurrogateError) as error:
        raise click.ClickException(str(error)) from error
    assumed = "as --limit says" if limit else "assumed, CelebA's training partition (--data or --limit)"
    faces_from = assumed if data is None else f"found in {data}"
    Console().print(plan_table(plan, faces_from))
    if figures is not None:
        text = json.dumps({"commit": commit(), **plan_figures(plan)}, indent=2)
        figures.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
