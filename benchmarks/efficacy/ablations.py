"""``benchmarks.efficacy ablations``: Table VII and Fig. 5, each variant trained on the same budget.

Every variant begins with the stage-1 networks of one run, trains stages 2 and 3 with one setting changed,
and is measured by ``training.evaluation`` on CelebA's test people. Finished variants are not trained again:
stop it and rerun the command to go on, on another machine with the result so far.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ..common import commit, digest_of_files, environment
from ..schema import read_result, write_result

# The reference has the paper's loss, without the owner term, and the preset's scheme: a meta step of second
# order in every fourth step. Its bounds are loose and the attack's own (epsilon) never reached: where all
# variants stop at one attack loss, nothing tells them apart.
REFERENCE = {
    "attack_settings.owner_weight": "0",
    "attack_settings.meta_every": "4",
    "attack_settings.injection": "0.05",
    "attack_settings.epsilon": "0.1",
    "attack_settings.sigma": "20",
    "attack_settings.chroma_weight": "3",
    "attack_settings.lpips_bound": "0.06",
    "attack.weights.perturbation": "4",
    "attack.weights.lpips": "200",
    "attack.weights.visibility": "0",
    "attack.weights.erasure": "2",
    "attack.ramps.perturbation": "0",
    "attack.ramps.lpips": "0",
    "attack.ramps.erasure": "0",
}
# What each variant changes.
VARIANTS: dict[str, dict[str, str]] = {
    "reference": {},
    "without meta-auxiliary": {"attack_settings.meta_every": "0"},
    "meta step every step": {"attack_settings.meta_every": "1"},
    "first order every step": {"attack_settings.meta_every": "1", "attack_settings.second_order": "false"},
    "gamma 0": {"attack_settings.injection": "0"},
    "gamma 0.1": {"attack_settings.injection": "0.1"},
    "beta 0.3": {"attack_settings.strength": "0.7"},
    "beta 0.7": {"attack_settings.strength": "0.3"},
    "owner term": {"attack_settings.owner_weight": "2", "attack_settings.owner_margin": "0.1"},
}


def _run(module: str, *arguments: object) -> None:
    subprocess.run([sys.executable, "-m", module, *map(str, arguments)], check=True)


def asked_of(name: str, base: Path, common: list[str], files: Iterable[Path], faces: int) -> dict[str, Any]:
    """What a variant's training is given, and by which code; another machine's paths do not matter.

    Args:
        files: those among ``common`` whose content counts.
    """
    settings = {**REFERENCE, **VARIANTS[name], "attack.epochs": "1", "erasure.epochs": "1"}
    names = [Path(argument).name for argument in common]
    return {
        "base": base.name,
        "faces": faces,
        "settings": settings,
        "common": names,
        "files": digest_of_files(files),
        "commit": commit(),
    }


def train_variant(
    asked: dict[str, Any], base: Path, folder: Path, common: list[str], threads: int | None
) -> None:
    """Trains a variant unless it is done.

    Args:
        asked: see ``asked_of``.
        base: run whose stage 1 is used.
        folder: of the variant's run.
        common: arguments of ``python -m training`` that all variants share.
    """
    done = folder / "done.json"
    if done.exists():
        if (found := json.loads(done.read_text())["asked"]) != asked:
            raise click.ClickException(
                f"{folder} holds a variant trained otherwise ({found}, expected {asked}); "
                "use another --runs, or delete it"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    _run(
        "training",
        *common,
        *(part for key, value in asked["settings"].items() for part in ("--set", f"{key}={value}")),
        *("--continue", base, "--from-stage", "attack", "--limit", asked["faces"], "--out", folder),
        *(("--threads", threads) if threads else ()),
    )
    done.write_text(json.dumps({"asked": asked}))


def kept_from(out: Path, head: dict[str, Any]) -> dict[str, Any]:
    """The variants of an earlier result, which may be another machine's.

    Raises:
        click.ClickException: it is of another base or budget, measured on others, or by other code.
    """
    if not out.exists():
        return {}
    earlier = read_result(out)
    ours, theirs = commit(), earlier["environment"]["commit"]
    if theirs != ours:
        raise click.ClickException(
            f"{out} holds variants made by the commit {theirs}, this is {ours}; check that one out to go on, "
            "or use another --out"
        )
    if differing := [key for key, value in head.items() if earlier.get(key) != value]:
        raise click.ClickException(
            f"{out} holds variants with another {' and '.join(differing)}; use another --out, or delete it"
        )
    return dict(earlier["variants"])


@click.command()
@click.option(
    "--base", required=True, type=click.Path(path_type=Path, exists=True), help="Its stage 1 is used."
)
@click.option("--preset", default="compact", show_default=True)
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True), help="CelebA's root.")
@click.option("--recognizers", "cards", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--target", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--thresholds", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--lpips-trunk", type=click.Path(path_type=Path, exists=True), help="AlexNet's.")
@click.option("--runs", required=True, type=click.Path(path_type=Path), help="Folder of the variants' runs.")
@click.option("--faces", default=4000, show_default=True, help="Training faces of each variant.")
@click.option("--people", default=150, show_default=True, help="Test people.")
@click.option("--only", multiple=True, help="Name of a variant; all if not given.")
@click.option("--threads", type=int)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Keeps the variants that it has already."
)
def command(
    base: Path,
    preset: str,
    data: Path,
    cards: Path,
    target: Path,
    thresholds: Path,
    lpips_trunk: Path | None,
    runs: Path,
    faces: int,
    people: int,
    only: tuple[str, ...],
    threads: int | None,
    out: Path,
) -> None:
    """Trains and measures every variant, one after the other."""
    if unknown := set(only) - VARIANTS.keys():
        raise click.BadParameter(f"no variant {', '.join(unknown)}; there are: {', '.join(VARIANTS)}")
    trunk = ["--lpips-trunk", str(lpips_trunk)] if lpips_trunk else []
    shared = ["--data", str(data), "--target", str(target), "--cache", str(runs / "cache"), *trunk]
    head = {
        "base": base.name,
        "preset": preset,
        "training_faces": faces,
        "test_people": people,
        "reference": REFERENCE,
    }
    kept = kept_from(out, head)
    files = [cards, target, *([lpips_trunk] if lpips_trunk else [])]
    judged_by = digest_of_files([*files, thresholds])[:12]
    for name in only or VARIANTS:
        folder = runs / name.replace(" ", "-")
        common = ["--preset", preset, "--surrogates", str(cards), *shared]
        asked = asked_of(name, base, common, files, faces)
        if kept.get(name, {}).get("asked") == asked:
            continue
        train_variant(asked, base, folder, common, threads)
        measured = folder / f"evaluation-{people}-{judged_by}"
        if not measured.with_suffix(".json").exists():
            _run(
                "training.evaluation",
                *("--run", folder, "--recognizers", cards, "--thresholds", thresholds, "--count", people),
                *(*shared, "--out", measured),
                *(("--threads", threads) if threads else ()),
            )
        evaluation = json.loads(measured.with_suffix(".json").read_text())
        kept[name] = {"asked": asked, "evaluation": evaluation}
        in_order = {known: kept[known] for known in VARIANTS if known in kept}
        write_result(
            {"benchmark": "ablations", "environment": environment(), **head, "variants": in_order}, out
        )
    Console().print(f"{len(kept)} variants in {out}; draw them: python -m benchmarks.efficacy ablation-plot")
