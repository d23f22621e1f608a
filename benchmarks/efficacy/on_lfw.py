"""What measurements of the anonymiser share: LFW's pictures, the options, and how a result begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from runtime.anonymiser import NETWORK
from training.data import FacePair, read_lfw

from ..common import about_bundle, environment
from .lfw_split import photos_of
from .releases import Releaser

_EXISTING = click.Path(path_type=Path, exists=True)
_OPTIONS = (
    click.option("--lfw", "root", required=True, type=_EXISTING, help="With pairs.txt."),
    click.option("--bundle", required=True, type=_EXISTING, help="The anonymiser's public one."),
    click.option("--folder", required=True, type=click.Path(path_type=Path), help="Kept; rerun to go on."),
    click.option(
        "--strength",
        "strengths",
        multiple=True,
        type=click.FloatRange(0, 1, min_open=True),
        help="Repeatable; default: the bundle's.",
    ),
    click.option("--lpips-alex", type=_EXISTING, help="AlexNet's, for LPIPS."),
    click.option("--lpips-vgg", type=_EXISTING, help="VGG-16's, likewise."),
    click.option("--quality", default=95, show_default=True, help="JPEG quality of the saved files."),
    click.option("--seed", default=0, show_default=True, help="Of all noise."),
    click.option("--threads", type=int, help="CPU threads of each network."),
)


def anonymiser_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that measures the anonymiser."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True, kw_only=True)
class View2:
    """LFW's View 2, or the first pairs of every fold.

    Attributes:
        name: of LFW's folder.
        folds: of pairs.
        numbers: every picture of the folds, and its place among all of the view, so that it draws the same
            noise in any part of it.
    """

    name: str
    folds: tuple[tuple[FacePair, ...], ...]
    numbers: dict[Path, int]

    @classmethod
    def read(cls, root: Path, pairs: int | None) -> View2:
        """Reads it.

        Args:
            root: LFW's, see ``training.data.read_lfw``.
            pairs: of one person, and as many of two, in each fold; None for all.

        Raises:
            DataError: it is not LFW.
        """
        whole = read_lfw(root)
        folds = tuple(
            (*[p for p in fold if p.same][:pairs], *[p for p in fold if not p.same][:pairs]) for fold in whole
        )
        everywhere = {photo: number for number, photo in enumerate(photos_of(whole))}
        return cls(
            name=root.name, folds=folds, numbers={photo: everywhere[photo] for photo in photos_of(folds)}
        )

    @property
    def photos(self) -> list[Path]:
        """Every picture, once."""
        return list(self.numbers)


def is_stochastic(releaser: Releaser) -> bool:
    """Whether the bundle says that it injects noise; all do but the ablation's."""
    return releaser.bundle.manifest.training.get("stochastic") is not False


def strengths_of(releaser: Releaser, given: Sequence[float]) -> tuple[float, ...]:
    """Those that were asked for, the weakest first, or the bundle's own."""
    return tuple(sorted(set(given))) or (releaser.bundle.manifest.strength,)


def about(benchmark: str, releaser: Releaser, view: View2) -> dict[str, Any]:
    """What a result says of how it came about."""
    return {
        "benchmark": benchmark,
        "environment": environment(),
        "bundle": about_bundle(releaser.bundle, NETWORK),
        "stochastic": is_stochastic(releaser),
        "jpeg_quality": releaser.quality,
        "seed": releaser.seed,
        "data": view.name,
        "pairs": sum(map(len, view.folds)),
        "pictures": len(view.numbers),
    }
