"""A pack: aligned crops, their landmarks and labels in a few NumPy files that map into memory."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.geometry import crop_transform, transform_points, warp

from .celeba import FaceRecord
from .errors import DataError
from .landmarks import find_landmarks, read_rgb

logger = logging.getLogger(__name__)

_ARRAYS = ("crops", "landmarks", "attributes", "identities")


@dataclass(frozen=True)
class FacePack:
    """Aligned faces, ready for training.

    Attributes:
        crops: ``(N, S, S, 3)`` uint8 RGB.
        landmarks: ``(N, 5, 2)`` float32, in the crop's pixels.
        attributes: ``(N, n)`` uint8 in {0, 1}.
        identities: ``(N,)`` int64.
        names: file name of each picture.
    """

    crops: NDArray[np.uint8]
    landmarks: NDArray[np.float32]
    attributes: NDArray[np.uint8]
    identities: NDArray[np.int64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.crops)

    def first(self, count: int | None) -> FacePack:
        """The first so many faces; all of them for None."""
        return FacePack(*(getattr(self, name)[:count] for name in (*_ARRAYS, "names")))


def pack_faces(
    records: Sequence[FaceRecord],
    folder: Path,
    size_px: int,
    *,
    device: str = "cpu",
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> FacePack:
    """Finds landmarks, crops every face and writes the pack; returns the one that is there already.

    Pictures that cannot be read or show no face are left out and counted in the log.

    Raises:
        DataError: no face at all was found, or the folder holds a pack of other pictures or another size.
    """
    if (folder / "pack.json").exists():
        pack = load_pack(folder)
        _check_same(pack, records, folder, size_px)
        return pack
    landmarks = find_landmarks([r.path for r in records], device=device, progress=progress)
    crops, points, kept = [], [], []
    for record, face in zip(records, landmarks, strict=True):
        image = None if np.isnan(face).any() else read_rgb(record.path)
        if image is None:
            continue
        matrix = crop_transform(face, size_px)
        crops.append(warp(image, matrix, (size_px, size_px)))
        points.append(transform_points(face, matrix))
        kept.append(record)
    if not kept:
        raise DataError(f"no face was found in any of {len(records)} pictures, e.g. {records[0].path}")
    if len(kept) < len(records):
        logger.warning(
            "%d of %d pictures left out: no face found or unreadable", len(records) - len(kept), len(records)
        )
    write_pack(
        folder,
        FacePack(
            crops=np.stack(crops),
            landmarks=np.stack(points).astype(np.float32),
            attributes=np.stack([record.attributes for record in kept]),
            identities=np.array([record.identity for record in kept], dtype=np.int64),
            names=tuple(record.path.name for record in kept),
        ),
    )
    return load_pack(folder)


def write_pack(folder: Path, pack: FacePack, about: Mapping[str, Any] | None = None) -> None:
    """Writes a pack whole or not at all; ``about`` is kept in its ``pack.json``."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in _ARRAYS:
        np.save(partial / f"{name}.npy", getattr(pack, name))
    (partial / "pack.json").write_text(json.dumps({**(about or {}), "names": pack.names}))
    partial.rename(folder)


def _check_same(pack: FacePack, records: Sequence[FaceRecord], folder: Path, size_px: int) -> None:
    """A pack is used again only for the pictures and labels it was made of."""
    _check_size(pack, folder, size_px)
    labels = {record.path.name: record.attributes for record in records}
    same = set(pack.names) <= labels.keys() and all(
        np.array_equal(labels[name], row) for name, row in zip(pack.names, pack.attributes, strict=True)
    )
    if not same:
        raise DataError(
            f"{folder} holds faces of other pictures or labels; use another --cache, or delete it"
        )


def load_pack(folder: Path) -> FacePack:
    """Opens a pack; the crops are mapped, not read.

    Raises:
        DataError: a file of the pack is missing or damaged.
    """
    try:
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        names = json.loads((folder / "pack.json").read_text())["names"]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{folder} is not a whole pack: {error}; delete it and it is made again") from error
    if len({len(array) for array in arrays.values()} | {len(names)}) != 1:
        raise DataError(f"{folder}: its arrays differ in length; delete it and it is made again")
    return FacePack(**arrays, names=tuple(names))


def prepared_pack(folder: Path, size_px: int) -> FacePack:
    """Opens a pack that somebody prepared, without the pictures it was made of.

    Raises:
        DataError: a file of the pack is missing or damaged, or its crops have another size.
    """
    pack = load_pack(folder)
    _check_size(pack, folder, size_px)
    return pack


def _check_size(pack: FacePack, folder: Path, size_px: int) -> None:
    if pack.crops.shape[1] != size_px:
        raise DataError(f"{folder} holds crops of {pack.crops.shape[1]} px, expected {size_px}")
