"""Arrays of many items, made some at a time and kept, so that long work may be stopped and goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

Item = TypeVar("Item")
Arrays = Mapping[str, NDArray]


def in_shards(
    items: Sequence[Item],
    make: Callable[[Sequence[Item]], Arrays],
    folder: Path,
    *,
    size: int,
    title: str,
) -> dict[str, NDArray]:
    """The arrays that ``make`` gives of all items, joined in their order; those that are kept are not made.

    Args:
        make: arrays by name of some items, each with a row an item; it may leave items out, also all of
            them, but the same of every array.
        folder: keeps a file for every so many items; for these very items and arrays alone.
        size: items in a file.
        title: of the progress bar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts: list[dict[str, NDArray]] = []
    for start in track(range(0, len(items), size), title):
        some = items[start : start + size]
        shard = folder / f"{start:06d}-{len(some)}.npz"
        if not shard.exists():
            partial = shard.with_suffix(".partial.npz")
            arrays: dict[str, Any] = dict(make(some))
            np.savez(partial, **arrays)
            partial.replace(shard)
        with np.load(shard) as kept:
            parts.append(dict(kept))
    names = dict.fromkeys(chain.from_iterable(parts))
    return {name: np.concatenate([part[name] for part in parts if name in part]) for name in names}
