"""Data sets in every layout: what is listed, in which split, and what an error says."""

from __future__ import annotations

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from training.__main__ import main
from training.data import ATTRIBUTES, DataError, Split, read_celeba, read_faces, read_lfw
from training.data.folder import split_of
from training.data.layouts import LAYOUTS, recognise_layout
from training.data.lists import read_labels

LABELS = "CelebAMask-HQ-attribute-anno.txt"
MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
PARTITIONS = "list_eval_partition.txt"


def picture(path, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


@pytest.fixture
def celebahq(tmp_path):
    """Twenty-one pictures; the first has every attribute, the second none, and so on."""
    rows = []
    for number in range(21):
        picture(tmp_path / "CelebA-HQ-img" / f"{number}.jpg")
        values = " ".join(["-1", *([("1", "-1")[number % 2]] * len(ATTRIBUTES))])
        rows.append(f"{number}.jpg  {values}")
    (tmp_path / LABELS).write_text("\n".join(["21", " ".join(["Other", *ATTRIBUTES]), *rows]) + "\n")
    return tmp_path


def numbers(records):
    return [int(record.path.stem) for record in records]


def test_celebahq_is_split_by_number(celebahq, caplog):
    train = read_faces(celebahq, Split.TRAIN)
    assert numbers(train) == [*range(18), 20]
    assert train[0].attributes.tolist() == [1] * 13
    assert train[1].attributes.tolist() == [0] * 13
    assert numbers(read_faces(celebahq, Split.VALIDATION)) == [18]
    assert numbers(read_faces(celebahq, Split.TEST)) == [19]
    assert "it is split by number" in caplog.text


def test_celebahq_is_split_as_celeba_where_the_lists_tell(celebahq):
    mapping = ["idx  orig_idx  orig_file", *(f"{n}  {n + 100}  {n + 101:06d}.jpg" for n in range(21))]
    (celebahq / MAPPING).write_text("\n".join(mapping))
    (celebahq / PARTITIONS).write_text("\n".join(f"{n + 101:06d}.jpg {n % 3}" for n in range(21)))
    for split in Split:
        assert numbers(read_faces(celebahq, split)) == list(range(split, 21, 3))

    (celebahq / PARTITIONS).write_text("000101.jpg 0")
    with pytest.raises(DataError, match=r"1\.jpg is not in .*list_eval_partition.txt, as 000102.jpg"):
        read_faces(celebahq, Split.TRAIN)
    (celebahq / MAPPING).write_text("\n".join(mapping[:2]))
    with pytest.raises(DataError, match=r"1\.jpg is not in .*CelebA-HQ-to-CelebA-mapping.txt"):
        read_faces(celebahq, Split.TRAIN)
    (celebahq / MAPPING).write_text("idx orig_idx orig_file\n0 000101.jpg")
    with pytest.raises(DataError, match=r"expected lines 'idx orig_idx orig_file', found '0 000101.jpg'"):
        read_faces(celebahq, Split.TRAIN)


def test_a_celebahq_picture_without_labels_is_named(celebahq):
    picture(celebahq / "CelebA-HQ-img" / "21.jpg")
    with pytest.raises(DataError, match=r"21\.jpg has no labels"):
        read_faces(celebahq, Split.TRAIN)


def test_celebahq_without_pictures_or_labels_is_an_error(celebahq):
    for path in (celebahq / "CelebA-HQ-img").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"no picture NUMBER.jpg in .*CelebA-HQ-img"):
        read_faces(celebahq, Split.TRAIN)
    (celebahq / LABELS).write_text(f"1\n{' '.join(ATTRIBUTES)}\n0.jpg{' x' * 13}")
    with pytest.raises(DataError, match=r"expected -1 or 1 for 0.jpg, found 'x'"):
        read_faces(celebahq, Split.TRAIN)
    (celebahq / LABELS).unlink()
    with pytest.raises(DataError, match=f"cannot read .*{LABELS}"):
        read_faces(celebahq, Split.TRAIN)


def test_a_folder_is_read_to_its_depths(tmp_path):
    names = [f"{folder:05d}/{number:05d}.png" for folder in (1000, 0) for number in range(40)]
    for name in [*names, "a/00000.JPG"]:
        picture(tmp_path / name)
    (tmp_path / "LICENSE.txt").write_text("not a picture")
    splits = {split: read_faces(tmp_path, split) for split in (Split.TRAIN, Split.VALIDATION)}
    for records in splits.values():
        assert [record.name for record in records] == sorted(record.name for record in records)
        assert all(record.attributes is None for record in records)
        assert all(record.path == tmp_path / record.name for record in records)
    both = [record for records in splits.values() for record in records]
    assert {record.name for record in both} == {*names, "a/00000.JPG"}
    assert len({record.identity for record in both}) == len(both) == 81
    with pytest.raises(DataError, match="none of its 81 pictures is for test; a folder is split 95%"):
        read_faces(tmp_path, Split.TEST)


def test_one_path_in_twenty_validates():
    """Of 20,000 paths 1,000 are expected, with a standard deviation of 31."""
    count = sum(split_of(f"{n:05d}.png") is Split.VALIDATION for n in range(20_000))
    assert count == pytest.approx(1000, abs=5 * 31)


def test_the_split_of_a_path_never_changes():
    """Another hash would put pictures that a run was trained on into its validation."""
    assert [n for n in range(100) if split_of(f"{n}.png") is Split.VALIDATION] == [6, 33, 40, 68]


@given(
    st.permutations(["Other", *ATTRIBUTES]),
    st.lists(st.lists(st.booleans(), min_size=14, max_size=14), min_size=1, max_size=4),
)
def test_labels_are_found_by_their_names(tmp_path_factory, names, rows):
    path = tmp_path_factory.getbasetemp() / "labels.txt"
    lines = (f"{i}.jpg  {' '.join('1' if bit else '-1' for bit in row)}" for i, row in enumerate(rows))
    path.write_text("\n".join([str(len(rows)), " ".join(names), *lines]))
    labels = read_labels(path)
    for i, row in enumerate(rows):
        assert labels[f"{i}.jpg"].tolist() == [row[names.index(name)] for name in ATTRIBUTES]


def test_a_layout_is_recognised_by_its_files(tmp_path, celebahq):
    assert recognise_layout(celebahq) == "celebahq"
    folder = tmp_path / "somewhere"
    folder.mkdir()
    assert recognise_layout(folder) == "folder"
    (folder / "img_align_celeba").mkdir()
    assert recognise_layout(folder) == "celeba"
    (folder / LABELS).touch()
    with pytest.raises(
        DataError, match=r"somewhere has files of the layouts celeba and celebahq; .*--layout"
    ):
        read_faces(folder, Split.TRAIN)
    with pytest.raises(DataError, match=r"cannot read .*list_eval_partition.txt"):
        read_faces(folder, Split.TRAIN, "celeba")


def test_what_is_no_data_set_is_named(tmp_path):
    with pytest.raises(DataError, match=f"no picture .* in {tmp_path} or below it"):
        read_faces(tmp_path, Split.TRAIN)
    with pytest.raises(DataError, match="nowhere is not a folder"):
        read_faces(tmp_path / "nowhere", Split.TRAIN)
    with pytest.raises(DataError, match=r"expected one of the layouts celeba, .*, found 'ffhq'"):
        read_faces(tmp_path, Split.TRAIN, "ffhq")


def test_celeba_without_pictures_is_an_error(tmp_path):
    names = " ".join(ATTRIBUTES)
    (tmp_path / "list_attr_celeba.txt").write_text(f"1\n{names}\n000001.jpg{' 1' * 13}")
    for file in ("identity_CelebA.txt", PARTITIONS):
        (tmp_path / file).write_text("000001.jpg 0")
    with pytest.raises(DataError, match=r"no picture in .*img_align_celeba"):
        read_celeba(tmp_path, Split.TRAIN)


def test_the_command_offers_every_layout():
    (option,) = [parameter for parameter in main.params if parameter.name == "layout"]
    assert isinstance(option.type, click.Choice)
    assert list(option.type.choices) == list(LAYOUTS)


@pytest.fixture
def lfw(tmp_path):
    """Two folds of one pair of one person and one of two."""
    people = tmp_path / "lfw-deepfunneled"
    for person, count in {"Ann_A": 2, "Bob_B": 2}.items():
        for number in range(1, count + 1):
            picture(people / person / f"{person}_{number:04d}.jpg")
    rows = ["Ann_A\t1\t2", "Ann_A\t1\tBob_B\t2", "Bob_B\t1\t2", "Bob_B\t1\tAnn_A\t2"]
    (tmp_path / "pairs.txt").write_text("\n".join(["2\t1", *rows]) + "\n")
    return tmp_path


@pytest.mark.parametrize("people", ["lfw-deepfunneled", "."])
def test_the_folds_of_lfw_are_read(lfw, people):
    if people == ".":
        for person in ("Ann_A", "Bob_B"):
            (lfw / "lfw-deepfunneled" / person).rename(lfw / person)
    folds = read_lfw(lfw)
    named = [[(pair.path_a.name, pair.path_b.name, pair.same) for pair in fold] for fold in folds]
    assert named == [
        [("Ann_A_0001.jpg", "Ann_A_0002.jpg", True), ("Ann_A_0001.jpg", "Bob_B_0002.jpg", False)],
        [("Bob_B_0001.jpg", "Bob_B_0002.jpg", True), ("Bob_B_0001.jpg", "Ann_A_0002.jpg", False)],
    ]
    assert folds[0][0].path_a == lfw / people / "Ann_A" / "Ann_A_0001.jpg"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read .*pairs.txt"),
        ("", "expected 'folds pairs' in its first line, found ''"),
        ("ten 300", "expected 'folds pairs' in its first line, found 'ten 300'"),
        ("1 1\nAnn_A 1 2", "expected 1 times 2 x 1 pairs, found 1"),
        ("1 1\nAnn_A 1 2\nAnn_A 1 Bob_B", "expected 'person number number' .*, found 'Ann_A 1 Bob_B'"),
        ("1 1\nAnn_A 1 2\nAnn_A 1 Bob_B 7", "Bob_B_0007.jpg is missing; pairs.txt names it"),
        ("1 1\nEve_E 1 2\nAnn_A 1 Bob_B 1", "no folder Eve_E in .* or one below it"),
    ],
)
def test_what_is_wrong_with_lfw_is_named(lfw, text, message):
    if text is None:
        (lfw / "pairs.txt").unlink()
    else:
        (lfw / "pairs.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_lfw(lfw)
