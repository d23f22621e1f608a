"""The registry: cards from a file, and who may be trained against. Adding a recogniser is a card, no code.

A cards file is JSON with a ``models`` object, an entry for each recogniser; docs/training.md names the
fields and example_cards.json shows one recogniser a source.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .card import RecognizerCard, SurrogateError
from .sources import LOADERS

ROLES = ("white-box", "black-box")
COLOURS = ("rgb", "bgr")


def load_cards(path: Path) -> dict[str, RecognizerCard]:
    """Reads a cards file.

    Raises:
        SurrogateError: the file cannot be read, an entry is malformed, or a white-box and a black-box
            recogniser are the same network.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "cards.json"
    try:
        entries = dict(json.loads(path.read_text(encoding="utf-8"))["models"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SurrogateError(f"{path} is not a recogniser cards file: {error!r}") from error
    cards = {}
    for name, entry in entries.items():
        try:
            cards[name] = _card(name, entry, path.parent)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise SurrogateError(f"{path}: the card of {name!r} is malformed: {error!r}") from error
    check_disjoint(cards.values())
    return cards


def _card(name: str, entry: Mapping[str, Any], folder: Path) -> RecognizerCard:
    source = _one_of(LOADERS, entry.get("source", "onnx"), "source")
    file = entry.get("file", f"{name}.onnx" if source == "onnx" else None)
    height, width = map(int, entry["size"])
    x0, y0, x1, y1 = map(float, entry["box"])
    mean, std = _channels(entry.get("mean", 0)), _channels(entry.get("std", 1))
    if not all(0 <= value <= 1 for value in mean) or not all(value > 0 for value in std):
        raise ValueError(f"mean and std are of pixels in [0, 1], found {mean} and {std}")
    return RecognizerCard(
        name=name,
        role=_one_of(ROLES, entry["role"], "role"),
        size_hw=(height, width),
        box=(x0, y0, x1, y1),
        source=source,
        path=folder / file if file else None,
        weights=entry.get("weights"),
        mean=mean,
        std=std,
        colour=_one_of(COLOURS, entry.get("colour", "rgb"), "colour"),
        thresholds={far: float(value) for far, value in entry.get("threshold", {}).items()},
    )


def _one_of(known: Collection[str], value: str, field: str) -> str:
    if value not in known:
        raise ValueError(f"expected a {field} {' or '.join(known)}, found {value!r}")
    return value


def _channels(value: float | Sequence[float]) -> tuple[float, float, float]:
    """A value for each channel; one number stands for all three."""
    first, second, third = [value] * 3 if isinstance(value, int | float) else value
    return float(first), float(second), float(third)


def check_disjoint(cards: Iterable[RecognizerCard]) -> None:
    """Makes sure that no network is listed both as white-box and as black-box.

    Networks are the same that have the same file, byte for byte, or the same named weights of a source.

    Raises:
        SurrogateError: two cards of different roles are one network.
    """
    first: dict[str, RecognizerCard] = {}
    for card in cards:
        for identity in _identities(card):
            other = first.setdefault(identity, card)
            if other.role != card.role:
                raise SurrogateError(
                    f"{other.name!r} is {other.role} and {card.name!r} is {card.role}, but they are the same "
                    f"network ({identity}): what is trained against cannot be held out"
                )


def _identities(card: RecognizerCard) -> Iterator[str]:
    if card.weights is not None:
        yield f"{card.source} {card.weights}"
    if card.path is not None and card.path.is_file():  # a missing one is an error once it is to be loaded
        with card.path.open("rb") as file:
            yield f"SHA-256 {hashlib.file_digest(file, 'sha256').hexdigest()}"


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
