"""The unauthorised eraser: pairs, a purifier that resumes, and its place in the runtime's own pipeline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from benchmarks.efficacy import eraser
from benchmarks.efficacy.erasers import GENERIC, by_network, in_place_of_the_restorer, unchanged
from benchmarks.efficacy.pairs import Pairs, make_pairs
from benchmarks.efficacy.protocol import Laboratory
from benchmarks.efficacy.published import Publisher, decode
from benchmarks.efficacy.purifier import Learning, Purifier, PurifierTraining
from runtime.manifest import Bundle
from tests.conftest import CROP_PX, TOY_CHANGE
from tests.strangers import Colours
from tests.tiny_training import stop
from training.data import FacePack
from training.data.pack import write_pack
from training.evaluation import Thresholds
from training.fingerprint import FIELD

HONEST = {"surrogates": ["open"], FIELD: {"open": {"file": "cc", "weights": "dd"}}}


def faces(count: int, side: int = CROP_PX) -> np.ndarray:
    """Smooth pictures."""
    small = np.random.default_rng(0).integers(40, 180, (count, 4, 4, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(face).resize((side, side))) for face in small])


def pairs(count: int, made_with: str = "ab") -> Pairs:
    clean = faces(count, 32)
    return Pairs(clean, clean + np.uint8(TOY_CHANGE), made_with)


def test_pairs_are_what_the_public_bundle_makes_and_are_kept(
    public_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The toy bundle adds 40 levels, the mask lets all of them through in the middle; three faces a shard."""
    monkeypatch.setattr("benchmarks.efficacy.pairs.SHARD", 3)
    clean = faces(5)
    made = make_pairs(public_bundle, clean, tmp_path, quality=95)
    assert (made.clean.shape, made.published.shape) == (clean.shape, clean.shape)
    middle = slice(CROP_PX // 2 - 4, CROP_PX // 2 + 4)
    change = made.published[:, middle, middle].astype(int) - clean[:, middle, middle]
    assert change.mean() == pytest.approx(TOY_CHANGE, abs=1.5)
    assert np.abs(made.published[:, 0].astype(int) - clean[:, 0]).mean() < 4  # JPEG alone
    shards = sorted(tmp_path.glob("*/*.npz"))
    assert [shard.name for shard in shards] == ["000000-3.npz", "000003-2.npz"]
    np.savez(shards[0], published=made.published[:3] * 0)
    assert make_pairs(public_bundle, clean, tmp_path, quality=95).published[:3].max() == 0


def test_a_purifier_begins_as_the_identity_and_keeps_shape() -> None:
    network = Purifier((4, 8, 8))
    face = torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.equal(network(face), face)
    assert np.array_equal(by_network(network)(faces(2, 16)), faces(2, 16))


LEARNING = Learning(pairs=8, steps=6, batch=4)


def trained(folder: Path, *stops: int, learning: Learning = LEARNING) -> PurifierTraining:
    folder.mkdir(exist_ok=True)
    for step in stops:
        stop(PurifierTraining(pairs(12), learning, folder), step)
    whole = PurifierTraining(pairs(12), learning, folder)
    assert whole.done == max(stops, default=0)
    assert whole.run(None)
    return whole


def test_a_resumed_purifier_is_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, parts = trained(tmp_path / "whole"), trained(tmp_path / "parts", 2, 4)
    assert whole.done == parts.done == 6
    for a, b in zip(whole.network.parameters(), parts.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_minutes_end_a_training_that_can_go_on(tmp_path: Path) -> None:
    assert not PurifierTraining(pairs(12), LEARNING, tmp_path).run(0)


def test_a_purifier_learns_to_undo_what_the_bundle_does(tmp_path: Path) -> None:
    learning = Learning(pairs=8, steps=60, batch=8, learning_rate=3e-3)
    erase = by_network(trained(tmp_path / "run", learning=learning).network)
    unseen, middle = pairs(12), np.s_[8:, 12:20, 12:20]  # the mask lets nothing through at the border
    before = np.abs(unseen.published[middle].astype(int) - unseen.clean[middle]).mean()
    after = np.abs(erase(unseen.published)[middle].astype(int) - unseen.clean[middle]).mean()
    assert after < before / 10


def test_a_purifier_refuses_other_pairs_and_too_few(tmp_path: Path) -> None:
    trained(tmp_path / "run")
    with pytest.raises(ValueError, match=r"purifier-8\.pt was trained with .*'ab'.*, expected .*'cd'"):
        PurifierTraining(pairs(12, "cd"), LEARNING, tmp_path / "run")
    with pytest.raises(ValueError, match="expected 8 pairs, at least a batch, found 7"):
        PurifierTraining(pairs(7), LEARNING, tmp_path)


@pytest.mark.parametrize("name", GENERIC)
def test_a_generic_purifier_smooths_and_keeps_what_is_smooth(name: str) -> None:
    smooth = faces(2)
    noise = np.random.default_rng(1).integers(-25, 26, smooth.shape)
    erased = GENERIC[name]((smooth.astype(int) + noise).astype(np.uint8))
    assert (erased.dtype, erased.shape) == (np.uint8, smooth.shape)
    assert np.abs(erased.astype(int) - smooth).mean() < np.abs(noise).mean() * 0.7


@pytest.fixture
def bundles(public_bundle: Bundle, authority_bundle: Bundle, tmp_path: Path) -> Path:
    root = tmp_path / "bundles"
    for side, bundle in (("public", public_bundle), ("authority", authority_bundle)):
        shutil.copytree(bundle.folder, root / side)
    return root


def test_an_eraser_takes_the_restorers_place_in_the_pipeline(
    bundles: Path, key_file: Path, hopper: np.ndarray
) -> None:
    """The toy bundle brightens faces; its restorer darkens them again, the eraser paints them black."""

    def black(crops: np.ndarray) -> np.ndarray:
        return crops * 0

    made = {}
    for name, erase in (("own", None), ("none", unchanged), ("black", black)):
        place = {} if erase is None else {"eraser": in_place_of_the_restorer(name, erase)}
        with Publisher(bundles, key_file, quality=95, threads=1, **place) as publisher:
            published = decode(publisher.protect(hopper))
            made[name] = decode(publisher.erase(published)).astype(int)
    centre = (slice(250, 300), slice(230, 280))
    levels = {name: pixels[centre].mean() for name, pixels in made.items()}
    assert levels["none"] == pytest.approx(published[centre].mean(), abs=1)
    assert levels["own"] == pytest.approx(levels["none"] - TOY_CHANGE, abs=3)
    assert levels["black"] < levels["own"] / 5
    assert np.abs(made["black"][:30, :30] - made["none"][:30, :30]).max() <= 6  # beyond the face


def laboratory(bundles: Path, key_file: Path, target: Path) -> Laboratory:
    bare = Laboratory.__new__(Laboratory)
    bare.recognizers, bare.roles = [Colours()], {"colours": "black-box"}
    limits = {"0.1": 0.5, "0.01": 0.9, "0.001": 0.95}
    calibration = {"pictures": 2, "pairs": 1, "seed": 0}
    bare.thresholds = Thresholds({"colours": {"sha256": "aa", "threshold": limits}}, calibration)
    bare.publisher = Publisher(bundles, key_file, quality=95, threads=1)
    bare._target_picture = target
    return bare


@pytest.fixture
def celeba(tmp_path: Path, astronaut: np.ndarray, hopper: np.ndarray) -> list[list[Path]]:
    people = []
    for name, pixels in (("a", astronaut), ("h", hopper)):
        path = tmp_path / f"{name}.png"
        Image.fromarray(pixels).resize((256, 256)).save(path)
        people.append([path, path])
    return people


def faces_of_16() -> FacePack:
    """A hacker's own faces."""
    count = 16
    return FacePack(
        crops=faces(count),
        landmarks=np.zeros((count, 5, 2), np.float32),
        attributes=np.zeros((count, 3), np.uint8),
        identities=np.arange(count),
        names=tuple(f"{i}.jpg" for i in range(count)),
    )


@pytest.fixture
def hackers_pack(tmp_path: Path) -> Path:
    write_pack(tmp_path / "pack", faces_of_16())
    return tmp_path / "pack"


def run(folder: Path, pack: Path, bundles: Path, *more: str) -> Any:
    here = str(folder)
    needed = ["--recognizers", here, "--target", here, "--thresholds", here, "--bundle", str(bundles)]
    return CliRunner().invoke(
        eraser.command,
        [
            *("--celeba", here, "--faces", str(pack), "--folder", str(folder / "kept")),
            *("--pairs", "16", "--steps", "2", "--threads", "1", "--out", str(folder / "out.json")),
            *needed,
            *more,
        ],
    )


def test_the_command_trains_measures_and_compares(
    bundles: Path,
    key_file: Path,
    celeba: list[list[Path]],
    hackers_pack: Path,
    hopper: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training = dict(HONEST)
    for side in ("public", "authority"):
        manifest = bundles / side / "manifest.json"
        raw = json.loads(manifest.read_text())
        manifest.write_text(json.dumps(raw | {"training": training}))
    monkeypatch.setattr(eraser, "people_of_celeba", lambda root: celeba)
    target = tmp_path / "target.png"
    Image.fromarray(hopper[:, ::-1, ::-1]).save(target)  # neither of the two
    monkeypatch.setattr(eraser, "Laboratory", lambda **_: laboratory(bundles, key_file, target))
    stopped = run(tmp_path, hackers_pack, bundles, "--minutes", "0")
    assert "16 pairs: 0 of 2 steps; run the same again to go on" in stopped.output
    assert not (tmp_path / "out.json").exists()
    done = run(tmp_path, hackers_pack, bundles)
    assert done.exit_code == 0, done.output
    first = (tmp_path / "out.json").read_text()
    kept = sorted((tmp_path / "kept").glob("people-*/*.json"))
    assert [path.stem for path in kept] == ["a", "h"]
    kept[1].unlink()  # as if it had been stopped before the second one
    late = run(tmp_path, hackers_pack, bundles, "--minutes", "0")
    assert "not everybody was measured; run the same again to go on" in late.output
    assert run(tmp_path, hackers_pack, bundles).exit_code == 0
    assert (tmp_path / "out.json").read_text() == first
    result = json.loads((tmp_path / "out.json").read_text())
    names = ["authority", "not erased", *GENERIC, "purifier, 16 pairs"]
    assert list(result["erasers"]) == names
    quality = {name: row["quality"]["l1"]["value"] for name, row in result["erasers"].items()}
    assert quality["authority"] < quality["not erased"] / 2
    row = result["erasers"]["authority"]["recognizers"]["colours"]
    assert row["by_other_photos"]["clean"]["rank_1"]["value"] == 1.0
    assert result["suspicions"] == []
    assert result["training"]["purifier, 16 pairs"]["pairs"] == 16


def test_a_hacker_who_trains_on_measured_people_is_refused(
    bundles: Path,
    celeba: list[list[Path]],
    hackers_pack: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(eraser, "people_of_celeba", lambda root: [[Path("3.jpg"), Path("x.jpg")]])
    done = run(tmp_path, hackers_pack, bundles)
    assert done.exit_code == 1
    assert "found 1 pictures of" in done.output
    assert "e.g. 3.jpg" in done.output
