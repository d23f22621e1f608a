"""CelebA's lists and packs: what is read, and what an error says."""

import numpy as np
import pytest
from PIL import Image

from training.data import ATTRIBUTES, load_pack, pack, pack_faces, read_celeba
from training.data.errors import DataError


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
    records = read_celeba(celeba, 0)
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
            "000001.jpg is in the partition list but has no an identity",
        ),
        ("list_eval_partition.txt", "000000.jpg 2", "no picture in partition 0"),
    ],
)
def test_a_broken_list_is_named(celeba, file, text, message):
    if text is None:
        (celeba / file).unlink()
    else:
        (celeba / file).write_text(text)
    with pytest.raises(DataError, match=message):
        read_celeba(celeba, 0)


def test_faces_are_packed_once_and_a_broken_picture_is_left_out(celeba, landmarks, tmp_path, caplog):
    records = read_celeba(celeba, 0)
    records[0].path.write_bytes(b"not a picture")
    made = pack_faces(records, tmp_path / "pack", 64)
    assert made.names == ("000001.jpg",)
    assert made.crops.shape == (1, 64, 64, 3)
    assert np.abs(made.crops[0, 32, 32].astype(int) - [40, 100, 200]).max() <= 2  # JPEG
    assert "000000.jpg: it cannot be read" in caplog.text
    records[1].path.unlink()
    assert pack_faces(records, tmp_path / "pack", 64).names == made.names


def test_packed_landmarks_lie_on_the_template(celeba, landmarks, tmp_path):
    made = pack_faces(read_celeba(celeba, 0), tmp_path / "pack", 128)
    centre = made.landmarks[0, :2].mean(0)
    assert centre == pytest.approx([64.0, 66.5], abs=1.0)


def test_no_face_at_all_is_an_error(celeba, landmarks, tmp_path):
    records = read_celeba(celeba, 0)
    for record in records:
        record.path.unlink()
    with pytest.raises(DataError, match="no face was found in any of 2 pictures"):
        pack_faces(records, tmp_path / "pack", 64)
    assert not (tmp_path / "pack").exists()


def test_a_pack_of_other_pictures_or_labels_is_an_error(celeba, landmarks, tmp_path):
    records = read_celeba(celeba, 0)
    pack_faces(records, tmp_path / "pack", 64)
    with pytest.raises(DataError, match="faces of other pictures or labels"):
        pack_faces(records[:1], tmp_path / "pack", 64)
    records[0].attributes[0] ^= 1
    with pytest.raises(DataError, match="faces of other pictures or labels"):
        pack_faces(records, tmp_path / "pack", 64)


def test_a_pack_of_another_size_or_a_damaged_one_is_an_error(celeba, landmarks, tmp_path):
    pack_faces(read_celeba(celeba, 0), tmp_path / "pack", 64)
    with pytest.raises(DataError, match="holds crops of 64 px, expected 32"):
        pack_faces(read_celeba(celeba, 0), tmp_path / "pack", 32)
    (tmp_path / "pack" / "landmarks.npy").write_bytes(b"")
    with pytest.raises(DataError, match="is not a whole pack"):
        load_pack(tmp_path / "pack")
