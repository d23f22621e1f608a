"""A pack: aligned crops, their landmarks and labels in a few NumPy files that map into memory."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from runtime.geometry import crop_transform, transform_points, warp

from .errors import DataError
from .landmarks import find_landmarks, read_rgb
from .records import FaceRecord

logger = logging.getLogger(__name__)

_ARRAYS = ("crops", "landmarks", "attributes", "identities")
# A share of pictures left out above which the data set is likely not what was meant.
_ALARMING_SHARE = 0.05
_NAMED = 5


class Labeller(Protocol):
    """Predicts the attributes of faces that come without labels.

    Attributes:
        source: what it is, so that a pack can tell where its labels come from.
    """

    source: dict[str, str]

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Attributes ``(N, n)`` in {0, 1} of crops ``(N, S, S, 3)``, which may be mapped from a file."""


@dataclass(frozen=True)
class FacePack:
    """Aligned faces, ready for training.

    Attributes:
        crops: ``(N, S, S, 3)`` uint8 RGB.
        landmarks: ``(N, 5, 2)`` float32, in the crop's pixels.
        attributes: ``(N, n)`` uint8 in {0, 1}.
        identities: ``(N,)`` int64.
        names: name of each picture in its data set.
        left_out: names of the pictures that are not in it; None in a pack that did not note them.
        labelled_by: source of predicted attributes; None where they are the data set's own.
    """

    crops: NDArray[np.uint8]
    landmarks: NDArray[np.float32]
    attributes: NDArray[np.uint8]
    identities: NDArray[np.int64]
    names: tuple[str, ...]
    left_out: tuple[str, ...] | None = None
    labelled_by: dict[str, str] | None = None

    def __len__(self) -> int:
        return len(self.crops)

    def first(self, count: int | None) -> FacePack:
        """The first so many faces; all of them for None."""
        return replace(self, **{name: getattr(self, name)[:count] for name in (*_ARRAYS, "names")})


def pack_faces(
    records: Sequence[FaceRecord],
    folder: Path,
    size_px: int,
    *,
    labeller: Labeller | None = None,
    device: str = "cpu",
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> FacePack:
    """Finds landmarks, crops every face and writes the pack; returns the one that is there already.

    Pictures that cannot be read or show no face are left out, named in the log and in the pack.

    Args:
        labeller: for records without attributes.

    Raises:
        DataError: no face at all was found, records lack attributes and a labeller (or have both), or the
            folder holds a pack of other pictures, other labels or another size.
    """
    if (folder / "pack.json").exists():
        pack = load_pack(folder)
        _check_same(pack, records, folder, size_px, labeller)
        return pack
    _check_labels(records, labeller)
    landmarks = find_landmarks([r.path for r in records], device=device, progress=progress)
    found = [
        (record, face) for record, face in zip(records, landmarks, strict=True) if not np.isnan(face).any()
    ]
    with _whole_or_not(folder) as partial:
        kept, points = _write_crops(partial / "crops.npy", found, size_px)
        if not kept:
            raise DataError(f"no face was found in any of {len(records)} pictures, e.g. {records[0].path}")
        if labeller is None:
            attributes = np.stack([record.attributes for record in kept if record.attributes is not None])
        else:
            attributes = labeller(np.load(partial / "crops.npy", mmap_mode="r"))
        arrays: dict[str, NDArray] = {
            "landmarks": np.stack(points).astype(np.float32),
            "attributes": attributes,
            "identities": np.array([record.identity for record in kept], dtype=np.int64),
        }
        for name, array in arrays.items():
            np.save(partial / f"{name}.npy", array)
        names = [record.name for record in kept]
        packed = set(names)
        left_out = [record.name for record in records if record.name not in packed]
        _log_left_out(left_out, len(records))
        about = {"names": names, "left_out": left_out, "labelled_by": labeller.source if labeller else None}
        (partial / "pack.json").write_text(json.dumps(about))
    return load_pack(folder)


def write_pack(folder: Path, pack: FacePack, about: Mapping[str, Any] | None = None) -> None:
    """Writes a pack whole or not at all; ``about`` is kept in its ``pack.json``."""
    with _whole_or_not(folder) as partial:
        for name in _ARRAYS:
            np.save(partial / f"{name}.npy", getattr(pack, name))
        told = {"left_out": pack.left_out, "labelled_by": pack.labelled_by, **(about or {})}
        (partial / "pack.json").write_text(json.dumps({**told, "names": pack.names}))


@contextmanager
def _whole_or_not(folder: Path) -> Iterator[Path]:
    """A folder to write into, which gets its name once everything is there."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    partial.rename(folder)


def _check_labels(records: Sequence[FaceRecord], labeller: Labeller | None) -> None:
    """Either every record has attributes, or none has and a labeller predicts them."""
    for record in records:
        if record.attributes is None and labeller is None:
            raise DataError(
                f"{record.path} has no attributes; have them predicted: --label-with RUN, a trained run"
            )
        if record.attributes is not None and labeller is not None:
            raise DataError(f"{record.path} has attributes of its own; leave out --label-with")


def _write_crops(
    path: Path, found: Sequence[tuple[FaceRecord, NDArray]], size_px: int
) -> tuple[list[FaceRecord], list[NDArray]]:
    """Writes the aligned crops to an array on disk, for they need not fit into memory.

    Returns:
        The records whose pictures could be read, and their landmarks in the crop.
    """
    kept: list[FaceRecord] = []
    points: list[NDArray] = []
    if found:
        crops = open_memmap(path, "w+", np.uint8, (len(found), size_px, size_px, 3))
        for record, face in found:
            image = read_rgb(record.path)
            if image is not None:
                matrix = crop_transform(face, size_px)
                crops[len(kept)] = warp(image, matrix, (size_px, size_px))
                points.append(transform_points(face, matrix))
                kept.append(record)
        crops.flush()
        if 0 < len(kept) < len(found):  # a picture went since its landmarks were found
            shorter = path.with_suffix(".shorter")
            open_memmap(shorter, "w+", np.uint8, (len(kept), *crops.shape[1:]))[:] = crops[: len(kept)]
            shorter.replace(path)
    return kept, points


def _log_left_out(names: Sequence[str], total: int) -> None:
    if names:
        share = len(names) / total
        logger.log(
            logging.ERROR if share > _ALARMING_SHARE else logging.WARNING,
            "%d of %d pictures (%.1f %%) left out, no face found or unreadable: %s%s",
            len(names),
            total,
            100 * share,
            ", ".join(names[:_NAMED]),
            ", ..." if len(names) > _NAMED else "",
        )


def _check_same(
    pack: FacePack, records: Sequence[FaceRecord], folder: Path, size_px: int, labeller: Labeller | None
) -> None:
    """A pack is used again only for the pictures and labels it was made of."""
    _check_size(pack, folder, size_px)
    if labeller is not None and labeller.source != pack.labelled_by:
        raise DataError(
            f"{folder} was labelled by {_told(pack.labelled_by)}, not by {_told(labeller.source)}; "
            "leave out --label-with to keep its labels, or use another --cache"
        )
    labels = {record.name: record.attributes for record in records}
    names = set(pack.names)
    same = names <= labels.keys() if pack.left_out is None else names | set(pack.left_out) == labels.keys()
    if not same or not all(
        pack.labelled_by is not None if (own := labels[name]) is None else np.array_equal(own, row)
        for name, row in zip(pack.names, pack.attributes, strict=True)
    ):
        raise DataError(
            f"{folder} holds faces of other pictures or labels; use another --cache, or delete it"
        )


def _told(source: dict[str, str] | None) -> str:
    return " ".join(f"{key} {value}" for key, value in source.items()) if source else "the data set's lists"


def load_pack(folder: Path) -> FacePack:
    """Opens a pack; the crops are mapped, not read.

    Raises:
        DataError: a file of the pack is missing or damaged.
    """
    try:
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        about = json.loads((folder / "pack.json").read_text())
        names, left_out = about["names"], about.get("left_out")
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{folder} is not a whole pack: {error}; delete it and it is made again") from error
    if len({len(array) for array in arrays.values()} | {len(names)}) != 1:
        raise DataError(f"{folder}: its arrays differ in length; delete it and it is made again")
    return FacePack(
        **arrays,
        names=tuple(names),
        left_out=None if left_out is None else tuple(left_out),
        labelled_by=about.get("labelled_by"),
    )


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
