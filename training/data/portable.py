"""``python -m training.data.portable``: a pack as a few files of limited size, to carry, and back.

A portable pack is a folder of ``faces-000.npz``, ``faces-001.npz`` ... and ``shards.json``, which says how
the crops were compressed, which pictures were left out and who labelled the faces, and lists the files with
their SHA-256. A shard holds ``data`` (the encoded crops
end to end), ``ends`` (where each ends), ``names`` (as JSON) and the pack's other arrays.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import DataError
from .pack import FacePack, load_pack, write_pack

INDEX_NAME = "shards.json"
LABELS = ("landmarks", "attributes", "identities")
_OVERHEAD = 8192  # of a shard: zip directory and array headers, generously
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Compression:
    """How crops are compressed.

    Attributes:
        codec: ``jpeg`` (4:4:4: the colour keeps its resolution) or ``webp`` (lossless).
        quality: of the JPEG.
    """

    codec: str = "jpeg"
    quality: int = 95

    def encode(self, crop: NDArray[np.uint8]) -> bytes:
        """``(S, S, 3)`` RGB to a file's bytes."""
        buffer = BytesIO()
        if self.codec == "jpeg":
            Image.fromarray(crop).save(buffer, "JPEG", quality=self.quality, subsampling=0, optimize=True)
        else:
            Image.fromarray(crop).save(buffer, "WEBP", lossless=True, quality=20, method=1)  # effort
        return buffer.getvalue()

    def about(self) -> dict[str, Any]:
        """What there is to know of the crops, for ``shards.json`` and the pack unpacked from it."""
        lossless = self.codec == "webp"
        return {"codec": "webp", "lossless": True} if lossless else {**asdict(self), "subsampling": "4:4:4"}


def write_shards(pack: FacePack, folder: Path, *, compression: Compression, max_bytes: int) -> list[Path]:
    """Writes a pack as shards of at most ``max_bytes`` each.

    Raises:
        DataError: the folder is not empty, or a single face is larger than a shard may be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise DataError(f"{folder} is not empty; give a new folder")
    shards: list[dict[str, Any]] = []
    paths: list[Path] = []
    for start, encoded in _shares(pack, compression, max_bytes):
        stop = start + len(encoded)
        path = folder / f"faces-{len(paths):03d}.npz"
        np.savez(
            path,
            data=np.frombuffer(b"".join(encoded), dtype=np.uint8),
            ends=np.cumsum([len(crop) for crop in encoded]),
            names=np.frombuffer(json.dumps(pack.names[start:stop]).encode(), dtype=np.uint8),
            **{name: getattr(pack, name)[start:stop] for name in LABELS},
        )
        shards.append({"file": path.name, "faces": len(encoded), "sha256": _hash(path.read_bytes())})
        paths.append(path)
    index = {
        "faces": len(pack),
        "side_px": pack.crops.shape[1],
        "recompressed": compression.about(),
        "left_out": pack.left_out,
        "labelled_by": pack.labelled_by,
        "shards": shards,
    }
    (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return paths


def _shares(pack: FacePack, compression: Compression, max_bytes: int) -> Iterator[tuple[int, list[bytes]]]:
    """The first face and the encoded crops of each shard."""
    start, size, encoded = 0, _OVERHEAD, list[bytes]()
    for i, crop in enumerate(pack.crops):
        data = compression.encode(np.asarray(crop))
        labels = sum(np.asarray(getattr(pack, name)[i]).nbytes for name in LABELS)
        face = len(data) + labels + np.dtype(np.int64).itemsize + len(json.dumps(pack.names[i])) + len(", ")
        if _OVERHEAD + face > max_bytes:
            raise DataError(f"{pack.names[i]} alone needs {_OVERHEAD + face} bytes, above {max_bytes}")
        if size + face > max_bytes:
            yield start, encoded
            start, size, encoded = i, _OVERHEAD, []
        encoded.append(data)
        size += face
    if encoded:
        yield start, encoded


def read_shards(folder: Path) -> tuple[FacePack, dict[str, Any]]:
    """The pack of a folder of shards, in memory, and how its crops were compressed.

    Raises:
        DataError: the index or a shard is missing or damaged.
    """
    try:
        index = json.loads((folder / INDEX_NAME).read_text(encoding="utf-8"))
        parts = [_read_shard(folder / shard["file"], shard["sha256"]) for shard in index["shards"]]
        compression, left_out = index["recompressed"], index.get("left_out")
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{folder} is not a whole portable pack: {type(error).__name__}: {error}; copy it again"
        ) from error
    if not parts:
        raise DataError(f"{folder} is a portable pack of no face")
    pack = FacePack(
        crops=np.concatenate([part.crops for part in parts]),
        landmarks=np.concatenate([part.landmarks for part in parts]),
        attributes=np.concatenate([part.attributes for part in parts]),
        identities=np.concatenate([part.identities for part in parts]),
        names=tuple(name for part in parts for name in part.names),
        left_out=None if left_out is None else tuple(left_out),
        labelled_by=index.get("labelled_by"),
    )
    return pack, {"recompressed": compression}


def _read_shard(path: Path, expected: str) -> FacePack:
    raw = path.read_bytes()
    if (found := _hash(raw)) != expected:
        raise DataError(f"{path} is damaged: its SHA-256 is {found}, expected {expected}; copy it again")
    with np.load(BytesIO(raw)) as shard:
        data, ends = shard["data"].tobytes(), shard["ends"].tolist()
        crops = [
            np.asarray(Image.open(BytesIO(data[start:end])).convert("RGB"))
            for start, end in pairwise([0, *ends])
        ]
        names = tuple(json.loads(shard["names"].tobytes()))
        return FacePack(crops=np.stack(crops), names=names, **{name: shard[name] for name in LABELS})


def _hash(data: bytes) -> str:
    return sha256(data).hexdigest()


_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.group()
def main() -> None:
    """Carries prepared packs to other machines."""


@main.command(epilog="\b\nExample:\n  python -m training.data.portable pack cache/train-128 carry/train")
@click.argument("pack", type=_FOLDER)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--max-mib", default=40.0, show_default=True, help="Largest size of a file.")
@click.option("--codec", type=click.Choice(["jpeg", "webp"]), default="jpeg", show_default=True)
@click.option("--quality", type=click.IntRange(1, 100), default=95, show_default=True, help="Of the JPEGs.")
def pack(pack: Path, out: Path, max_mib: float, codec: str, quality: int) -> None:
    """Writes PACK as shards of limited size into OUT; webp is lossless."""
    try:
        paths = write_shards(
            load_pack(pack),
            out,
            compression=Compression(codec=codec, quality=quality),
            max_bytes=int(max_mib * MIB),
        )
    except DataError as error:
        raise click.ClickException(str(error)) from error
    sizes = [path.stat().st_size / MIB for path in paths]
    click.echo(f"{len(paths)} shards, {sum(sizes):.1f} MiB, the largest {max(sizes):.1f} MiB")


@main.command(epilog="\b\nExample:\n  python -m training.data.portable unpack carry/train prepared/train")
@click.argument("shards", type=_FOLDER)
@click.argument("out", type=click.Path(path_type=Path))
def unpack(shards: Path, out: Path) -> None:
    """Restores the pack of SHARDS as the folder OUT."""
    if out.exists():
        raise click.ClickException(f"{out} exists already; give a new folder, or delete it")
    try:
        faces, about = read_shards(shards)
    except DataError as error:
        raise click.ClickException(str(error)) from error
    write_pack(out, faces, about)
    click.echo(f"{len(faces)} faces of {faces.crops.shape[1]} px")


if __name__ == "__main__":
    main()
