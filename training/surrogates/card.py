"""Cards: what must be known of a face recogniser to use it. Adding one is a card, no code.

A cards file is JSON with a ``models`` object; each entry has ``role`` (``white-box`` may be trained
against, ``black-box`` is for evaluation only), ``size`` (H, W), ``box`` (the input rectangle in
ArcFace's 112x112 frame) and ``threshold`` (false accept rate to cosine). The network lies beside the
file as ``NAME.onnx`` unless ``file`` says otherwise; it takes RGB in [0, 1].
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class SurrogateError(Exception):
    """A recogniser's card or file is missing, malformed, or may not be used for this."""


@dataclass(frozen=True, kw_only=True)
class RecognizerCard:
    """One recogniser: name, file, role, input and cosine thresholds by false accept rate."""

    name: str
    path: Path
    role: str
    size_hw: tuple[int, int]
    box: tuple[float, float, float, float]
    thresholds: Mapping[str, float]


def load_cards(path: Path) -> dict[str, RecognizerCard]:
    """Reads a cards file.

    Raises:
        SurrogateError: the file cannot be read, or an entry lacks a field or has an unknown role.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "cards.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["models"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SurrogateError(f"{path} is not a recogniser cards file: {error!r}") from error
    cards = {}
    for name, entry in entries.items():
        try:
            card = RecognizerCard(
                name=name,
                path=path.parent / entry.get("file", f"{name}.onnx"),
                role=entry["role"],
                size_hw=(int(entry["size"][0]), int(entry["size"][1])),
                box=_box(entry["box"]),
                thresholds={far: float(value) for far, value in entry["threshold"].items()},
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise SurrogateError(f"{path}: the card of {name!r} is malformed: {error!r}") from error
        if card.role not in ("white-box", "black-box"):
            raise SurrogateError(f"{path}: {name!r} needs a role white-box or black-box, found {card.role!r}")
        cards[name] = card
    return cards


def _box(edges: Sequence[float]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = map(float, edges)
    return x0, y0, x1, y1


def select_white_box(
    cards: Mapping[str, RecognizerCard], names: Sequence[str] | None
) -> list[RecognizerCard]:
    """The surrogates to train against: those named, or all white-box ones.

    Raises:
        SurrogateError: a name is unknown or black-box (held out: training must not see it), or none
            is left.
    """
    if not names:
        names = [name for name, card in cards.items() if card.role == "white-box"]
    chosen = []
    for name in names:
        if name not in cards:
            raise SurrogateError(f"no card for {name!r}; there are: {', '.join(cards) or 'none'}")
        if cards[name].role != "white-box":
            raise SurrogateError(f"{name!r} is {cards[name].role}: it is held out and never trained against")
        chosen.append(cards[name])
    if not chosen:
        raise SurrogateError("no white-box recogniser to train against")
    return chosen
