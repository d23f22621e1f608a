"""CelebA's lists and packs: what is read, how it is labelled, and what an error says."""

import dataclasses
import io
import json
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import PORTRAIT
from tests.tiny_run import SIZE, TINY
from training.batches import to_network
from training.checkpoint import save_checkpoint
from training.data import (
    ATTRIBUTES,
    DataError,
    Split,
    find_landmarks,
    load_pack,
    pack,
    pack_faces,
    read_celeba,
    read_faces,
)
from training.data.landmarks import read_rgb
from training.labels import RunLabeller


@pytest.fixture
def celeba(tmp_path):
    names = ["Other", *ATTRIBUTES]
    (tmp_path / "img_align_celeba").mkdir()
    rows, identities, partitions = [], [], []
    for i in range(3):
        name = f"{i:06d}.jpg"
        Image.new("RGB", (178, 218), (40 * i, 100, 200)).save(tmp_path / "img_align_celeba" / name)
        rows.append(" ".join([name, "1", *("1" if j == i else "-1" for j in range(len(ATTRIBUTES)))]))
        identities.append(f"{name} {10 + i}")
        partitions.append(f"{name} {0 if i < 2 else 1}")
    (tmp_path / "list_attr_celeba.txt").write_text("\n".join(["3", " ".join(names), *rows]))
    (tmp_path / "identity_CelebA.txt").write_text("\n".join(identities))
    (tmp_path / "list_eval_partition.txt").write_text("\n".join(partitions))
    return tmp_path


@pytest.fixture
def landmarks(monkeypatch):
    """Stands in for MTCNN: every readable picture has CelebA's mean landmarks."""
    face = np.array([[70.2, 112.2], [108.8, 112.2], [89.5, 135.8], [72.5, 153.9], [106.5, 153.9]])

    def find(paths, **_):
        return np.stack([face if path.exists() else np.full((5, 2), np.nan) for path in paths])

    monkeypatch.setattr(pack, "find_landmarks", find)
    return face


def test_a_partition_is_read_in_order(celeba):
    records = read_celeba(celeba, Split.TRAIN)
    assert [record.path.name for record in records] == ["000000.jpg", "000001.jpg"]
    assert [record.identity for record in records] == [10, 11]
    assert records[1].attributes.tolist() == [0, 1] + [0] * 11


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("list_attr_celeba.txt", None, "cannot read .*list_attr_celeba.txt"),
        ("list_attr_celeba.txt", "1\nBald\n000000.jpg 1", "the attributes Bangs, .* are missing"),
        ("identity_CelebA.txt", "000000.jpg ten", "expected lines 'picture number', found '000000.jpg ten'"),
        (
            "identity_CelebA.txt",
            "000000.jpg 10",
            "000001.jpg is in list_eval_partition.txt, but not in identity_CelebA.txt",
        ),
        ("list_eval_partition.txt", "000000.jpg 2", "no picture in the partition 0"),
    ],
)
def test_a_broken_list_is_named(celeba, file, text, message):
    if text is None:
        (celeba / file).unlink()
    else:
        (celeba / file).write_text(text)
    with pytest.raises(DataError, match=message):
        read_celeba(celeba, Split.TRAIN)


def test_faces_are_packed_once_and_a_broken_picture_is_left_out(celeba, landmarks, tmp_path, caplog):
    records = read_celeba(celeba, Split.TRAIN)
    records[0].path.write_bytes(b"not a picture")
    made = pack_faces(records, tmp_path / "pack", 64)
    assert made.names == ("000001.jpg",)
    assert made.crops.shape == (1, 64, 64, 3)
    assert np.abs(made.crops[0, 32, 32].astype(int) - [40, 100, 200]).max() <= 2  # JPEG
    assert made.left_out == ("000000.jpg",)
    assert "000000.jpg: it cannot be read" in caplog.text
    assert "1 of 2 pictures (50.0 %) left out, no face found or unreadable: 000000.jpg" in caplog.text
    assert caplog.records[-1].levelno == logging.ERROR
    records[1].path.unlink()
    assert pack_faces(records, tmp_path / "pack", 64).names == made.names


def test_packed_landmarks_lie_on_the_template(celeba, landmarks, tmp_path):
    made = pack_faces(read_celeba(celeba, Split.TRAIN), tmp_path / "pack", 128)
    centre = made.landmarks[0, :2].mean(0)
    assert centre == pytest.approx([64.0, 66.5], abs=1.0)


def test_no_face_at_all_is_an_error(celeba, landmarks, tmp_path):
    records = read_celeba(celeba, Split.TRAIN)
    for record in records:
        record.path.unlink()
    with pytest.raises(DataError, match="no face was found in any of 2 pictures"):
        pack_faces(records, tmp_path / "pack", 64)
    assert not (tmp_path / "pack").exists()


def test_a_pack_of_other_pictures_or_labels_is_an_error(celeba, landmarks, tmp_path):
    records = read_celeba(celeba, Split.TRAIN)
    pack_faces(records, tmp_path / "pack", 64)
    with pytest.raises(DataError, match="faces of other pictures or labels"):
        pack_faces(records[:1], tmp_path / "pack", 64)
    records[0].attributes[0] ^= 1
    with pytest.raises(DataError, match="faces of other pictures or labels"):
        pack_faces(records, tmp_path / "pack", 64)


def test_a_pack_of_another_size_or_a_damaged_one_is_an_error(celeba, landmarks, tmp_path):
    pack_faces(read_celeba(celeba, Split.TRAIN), tmp_path / "pack", 64)
    with pytest.raises(DataError, match="holds crops of 64 px, expected 32"):
        pack_faces(read_celeba(celeba, Split.TRAIN), tmp_path / "pack", 32)
    (tmp_path / "pack" / "landmarks.npy").write_bytes(b"")
    with pytest.raises(DataError, match="is not a whole pack"):
        load_pack(tmp_path / "pack")


def test_a_pack_made_before_left_out_pictures_were_noted_is_used(celeba, landmarks, tmp_path):
    records = read_celeba(celeba, Split.TRAIN)
    pack_faces(records[:1], tmp_path / "pack", 64)
    (tmp_path / "pack" / "pack.json").write_text(json.dumps({"names": ["000000.jpg"]}))
    made = pack_faces(records, tmp_path / "pack", 64)
    assert (made.names, made.left_out, made.labelled_by) == (("000000.jpg",), None, None)


def test_a_picture_that_goes_while_packing_is_left_out(celeba, landmarks, tmp_path, monkeypatch):
    records = read_celeba(celeba, Split.TRAIN)
    read = pack.read_rgb
    monkeypatch.setattr(pack, "read_rgb", lambda path: None if path == records[0].path else read(path))
    made = pack_faces(records, tmp_path / "pack", 64)
    assert made.names == ("000001.jpg",)
    assert made.crops.shape == (1, 64, 64, 3)
    assert np.abs(made.crops[0, 32, 32].astype(int) - [40, 100, 200]).max() <= 2  # JPEG
    assert {path.suffix for path in (tmp_path / "pack").iterdir()} == {".npy", ".json"}


@pytest.fixture
def run(tmp_path):
    """A run whose discriminator tells the attributes, which it has in another order."""
    torch.manual_seed(0)
    config = dataclasses.replace(TINY, network=dataclasses.replace(TINY.network, n_attributes=13))
    networks = {
        "generator": config.network.generator(),
        "restorer": config.network.restorer(),
        "discriminator": config.network.discriminator(),
    }

    def save(name, attributes=ATTRIBUTES[::-1], change=0.0):
        networks["discriminator"].attribute_head[-1].bias.data += change
        (tmp_path / name).mkdir()
        save_checkpoint(
            tmp_path / name,
            {
                "config": dataclasses.asdict(config),
                "about": {"attributes": list(attributes)},
                "averaged": {name: network.state_dict() for name, network in networks.items()},
            },
        )
        return tmp_path / name, networks["discriminator"].eval()

    return save


@pytest.fixture
def unlabelled(tmp_path):
    """A folder of two pictures of one name, in folders of their own; both are for training."""
    for folder, colour in (("a", (200, 90, 30)), ("b", (40, 100, 200))):
        (tmp_path / "folder" / folder).mkdir(parents=True)
        Image.new("RGB", (178, 218), colour).save(tmp_path / "folder" / folder / "1.png")
    return tmp_path / "folder"


def test_attributes_are_predicted_once_and_their_source_is_noted(
    unlabelled, landmarks, run, tmp_path, monkeypatch
):
    records = read_faces(unlabelled, Split.TRAIN)
    folder, discriminator = run("labeller")
    labeller = RunLabeller(folder)
    made = pack_faces(records, tmp_path / "pack", SIZE, labeller=labeller)
    logits = discriminator(to_network(np.array(made.crops)))[1]
    assert made.names == ("a/1.png", "b/1.png")
    assert np.array_equal(made.attributes, logits.gt(0).flip(1).numpy())
    assert 0 < made.attributes.mean() < 1
    assert made.labelled_by == labeller.source
    assert made.labelled_by["run"] == "labeller"

    monkeypatch.setattr(RunLabeller, "__call__", None)
    for again in (labeller, None):
        kept = pack_faces(records, tmp_path / "pack", SIZE, labeller=again)
        assert np.array_equal(kept.attributes, made.attributes)
    other = RunLabeller(run("other", change=1.0)[0])
    with pytest.raises(
        DataError, match=r"labelled by run labeller .* not by run other .*; leave out --label"
    ):
        pack_faces(records, tmp_path / "pack", SIZE, labeller=other)


def test_crops_of_another_size_are_labelled_too(run):
    crops = np.full((3, 2 * SIZE, 2 * SIZE, 3), 128, dtype=np.uint8)
    labeller = RunLabeller(run("labeller")[0])
    assert np.array_equal(labeller(crops), labeller(crops[:, ::2, ::2]))


def test_what_lacks_labels_or_has_them_is_told_so(celeba, unlabelled, landmarks, run, tmp_path):
    with pytest.raises(DataError, match=r"a/1\.png has no attributes; .*--label-with RUN"):
        pack_faces(read_faces(unlabelled, Split.TRAIN), tmp_path / "pack", SIZE)
    folder, _ = run("labeller")
    with pytest.raises(DataError, match=r"000000\.jpg has attributes of its own; leave out --label-with"):
        pack_faces(read_celeba(celeba, Split.TRAIN), tmp_path / "pack", SIZE, labeller=RunLabeller(folder))
    with pytest.raises(DataError, match=r"little cannot label faces: it does not know Black_Hair, .*"):
        RunLabeller(run("little", ATTRIBUTES[:2])[0])
    assert not (tmp_path / "pack").exists()


def test_a_picture_added_to_a_packed_folder_is_noticed(unlabelled, landmarks, run, tmp_path):
    labeller = RunLabeller(run("labeller")[0])
    pack_faces(read_faces(unlabelled, Split.TRAIN), tmp_path / "pack", SIZE, labeller=labeller)
    Image.new("RGB", (178, 218)).save(unlabelled / "2.png")
    with pytest.raises(DataError, match="faces of other pictures or labels"):
        pack_faces(read_faces(unlabelled, Split.TRAIN), tmp_path / "pack", SIZE)


def encoded(kind):
    data = io.BytesIO()
    Image.effect_noise((24, 24), 60).convert("RGB").save(data, kind)
    return data.getvalue()


WHOLE = {kind: encoded(kind) for kind in ("JPEG", "PNG", "BMP", "WEBP")}


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(sorted(WHOLE)), data=st.data())
def test_no_damaged_picture_stops_a_run(tmp_path_factory, kind, data):
    damaged = bytearray(WHOLE[kind])
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    image = read_rgb(path)
    assert image is None or (image.ndim, image.shape[2], image.dtype) == (3, 3, np.uint8)


def test_a_picture_is_read_upright(tmp_path, astronaut):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(np.rot90(astronaut[:200])).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_rgb(tmp_path / "turned.png"), astronaut[:200])


def test_the_detector_outlives_pictures_it_cannot_look_at(tmp_path, caplog):
    """MTCNN raises for one smaller than its smallest face, even among others."""
    paths = [tmp_path / name for name in ("dot.png", "line.png", "broken.png", "plain.png", "absent.png")]
    Image.new("RGB", (5, 5)).save(paths[0])
    Image.new("RGB", (300, 1)).save(paths[1])
    paths[2].write_bytes(PORTRAIT.read_bytes()[:2000])
    Image.new("RGB", (64, 64)).save(paths[3])
    found = find_landmarks([*paths, PORTRAIT])
    assert np.isnan(found[:-1]).all()
    assert found[-1].mean(0) == pytest.approx([230, 120], abs=40)
    assert "dot.png: the detector cannot look at it" in caplog.text
    assert "broken.png: it cannot be read" in caplog.text


class Detector:
    """Stands in for MTCNN: a face at the edge, and one off the middle by a hundredth of the brightness."""

    def __init__(self, **_):
        pass

    def detect(self, pictures, landmarks):
        assert landmarks
        middle = np.array(pictures.shape[2:0:-1]) / 2
        brightness = pictures.mean((1, 2, 3))
        faces = [np.stack([np.full((5, 2), 1.0), middle + np.full((5, 2), b / 100)]) for b in brightness]
        return None, None, faces


def test_every_picture_gets_its_own_central_face_whatever_the_sizes(tmp_path, monkeypatch):
    """Sizes come mixed, the detector wants them sorted; picture i has brightness i."""
    monkeypatch.setattr("facenet_pytorch.MTCNN", Detector)
    sides = [40, 20, 40, 30, 20, 40]
    paths = [tmp_path / f"{i}.png" for i in range(len(sides))]
    for i, side in enumerate(sides):
        Image.new("RGB", (side, side), (i, i, i)).save(paths[i])
    found = find_landmarks(paths, batch=4)
    expected = [side / 2 + i / 100 for i, side in enumerate(sides)]
    np.testing.assert_allclose(found, np.array(expected)[:, None, None] * np.ones((1, 5, 2)))
