"""Portable packs: the round trip, the size limit, and damaged shards."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from tests.conftest import PORTRAIT
from training.data import FacePack, Split, load_pack, prepared_pack
from training.data.errors import DataError
from training.data.landmarks import read_rgb
from training.data.pack import write_pack
from training.data.portable import Compression, main, read_shards, write_shards
from training.presets import COMPACT
from training.recipe import _faces

N, SIDE = 12, 64


@pytest.fixture
def faces() -> FacePack:
    """Crops of a real portrait, whose detail JPEG is made for."""
    rng = np.random.default_rng(0)
    portrait = read_rgb(PORTRAIT)
    corners = rng.integers(0, 512 - SIDE, (N, 2))
    return FacePack(
        crops=np.stack([portrait[y : y + SIDE, x : x + SIDE] for y, x in corners]),
        landmarks=rng.uniform(0, SIDE, (N, 5, 2)).astype(np.float32),
        attributes=rng.integers(0, 2, (N, 13)).astype(np.uint8),
        identities=np.arange(N),
        names=tuple(f"{i:06d}.jpg" for i in range(N)),
    )


def round_trip(faces: FacePack, folder, compression: Compression) -> FacePack:
    write_shards(faces, folder, compression=compression, max_bytes=30_000)
    back, _ = read_shards(folder)
    for name in ("landmarks", "attributes", "identities"):
        np.testing.assert_array_equal(getattr(back, name), getattr(faces, name))
    assert back.names == faces.names
    return back


def test_jpeg_crops_come_back_nearly(faces, tmp_path):
    back = round_trip(faces, tmp_path, Compression())
    error = np.abs(back.crops.astype(int) - faces.crops)
    assert 0 < error.mean() < 1.5
    assert error.max() <= 24


def test_lossless_crops_come_back_exactly(faces, tmp_path):
    back = round_trip(faces, tmp_path, Compression(codec="webp"))
    np.testing.assert_array_equal(back.crops, faces.crops)


def test_shards_keep_the_limit(faces, tmp_path):
    limit = 20_000
    paths = write_shards(faces, tmp_path, compression=Compression(), max_bytes=limit)
    assert len(paths) > 1
    assert max(path.stat().st_size for path in paths) <= limit
    with pytest.raises(DataError, match="is not empty"):
        write_shards(faces, tmp_path, compression=Compression(), max_bytes=limit)
    with pytest.raises(DataError, match=r"000000.jpg alone needs \d+ bytes, above 9000"):
        write_shards(faces, tmp_path / "small", compression=Compression(), max_bytes=9000)


def test_the_commands_carry_a_pack_and_say_how_it_was_compressed(faces, tmp_path):
    write_pack(tmp_path / "pack", faces)
    carry, prepared = str(tmp_path / "carry"), tmp_path / "prepared"
    done = CliRunner().invoke(main, ["pack", str(tmp_path / "pack"), carry, "--max-mib", "0.03"])
    assert done.exit_code == 0, done.output
    assert "the largest 0.0 MiB" in done.output
    done = CliRunner().invoke(main, ["unpack", carry, str(prepared)])
    assert (done.exit_code, done.output) == (0, f"{N} faces of {SIDE} px\n")
    assert len(load_pack(prepared)) == N
    for path in (tmp_path / "carry" / "shards.json", prepared / "pack.json"):
        told = json.loads(path.read_text())["recompressed"]
        assert told == {"codec": "jpeg", "quality": 95, "subsampling": "4:4:4"}
    done = CliRunner().invoke(main, ["unpack", carry, str(prepared)])
    assert done.exit_code == 1
    assert "exists already" in done.output


def test_a_carried_pack_tells_what_was_left_out_and_who_labelled_it(faces, tmp_path):
    told = {"left_out": ("blind.jpg",), "labelled_by": {"run": "labeller", "sha256": "c0ffee"}}
    write_pack(tmp_path / "pack", dataclasses.replace(faces, **told))
    for arguments in (["pack", "pack", "carry"], ["unpack", "carry", "back"]):
        command, *folders = arguments
        done = CliRunner().invoke(main, [command, *(str(tmp_path / folder) for folder in folders)])
        assert done.exit_code == 0, done.output
    back = load_pack(tmp_path / "back")
    assert {name: getattr(back, name) for name in told} == told


def test_a_portable_pack_made_before_that_was_kept_is_read(faces, tmp_path):
    write_shards(faces, tmp_path, compression=Compression(), max_bytes=30_000)
    index = json.loads((tmp_path / "shards.json").read_text())
    del index["left_out"], index["labelled_by"]
    (tmp_path / "shards.json").write_text(json.dumps(index))
    back, _ = read_shards(tmp_path)
    assert (len(back), back.left_out, back.labelled_by) == (N, None, None)


def test_a_damaged_or_missing_shard_is_an_error(faces, tmp_path):
    first, *_ = write_shards(faces, tmp_path, compression=Compression(), max_bytes=20_000)
    whole = first.read_bytes()
    first.write_bytes(whole[:500] + b"x" + whole[501:])
    with pytest.raises(DataError, match=r"faces-000.npz is damaged: its SHA-256 is .*; copy it again"):
        read_shards(tmp_path)
    first.unlink()
    with pytest.raises(DataError, match=r"not a whole portable pack: .*faces-000.npz"):
        read_shards(tmp_path)
    (tmp_path / "shards.json").unlink()
    with pytest.raises(DataError, match=r"not a whole portable pack: .*shards.json"):
        read_shards(tmp_path)


def test_a_prepared_pack_is_opened_whole_or_in_part(faces, tmp_path):
    write_pack(tmp_path / "train", faces)
    pack = prepared_pack(tmp_path / "train", SIDE)
    assert len(pack.first(None)) == N
    assert pack.first(5).names == faces.names[:5]
    assert len(pack.first(5)) == len(pack.first(5).landmarks) == 5
    with pytest.raises(DataError, match="holds crops of 64 px, expected 128"):
        prepared_pack(tmp_path / "train", 128)


@pytest.mark.parametrize(("layout", "labeller"), [("folder", None), (None, object())])
def test_a_prepared_pack_takes_no_layout_and_no_labels(faces, tmp_path, layout, labeller):
    write_pack(tmp_path / "train", faces)
    config = dataclasses.replace(COMPACT, network=dataclasses.replace(COMPACT.network, image_size=SIDE))
    job = SimpleNamespace(config=config, data=tmp_path, layout=None, limit=5)
    assert len(_faces(job, Split.TRAIN, None)) == 5
    job.layout = layout
    with pytest.raises(DataError, match=r"holds prepared packs, .*; leave out --layout and --label-with"):
        _faces(job, Split.TRAIN, labeller)
