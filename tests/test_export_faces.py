"""The faces that an export is compared on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.errors import ExportError
from export.faces import load_faces, synthetic_faces
from tests.tiny_run import SIZE


def test_faces_come_from_an_array_a_pack_or_pictures(tmp_path: Path) -> None:
    from PIL import Image

    faces = synthetic_faces(5, SIZE)
    np.save(tmp_path / "crops.npy", faces)
    assert np.array_equal(load_faces(tmp_path / "crops.npy", SIZE, 9), faces)
    assert np.array_equal(load_faces(tmp_path, SIZE, 3), faces[[0, 2, 4]])
    (tmp_path / "pictures").mkdir()
    for index, face in enumerate(faces):
        Image.fromarray(face).save(tmp_path / "pictures" / f"{index}.png")
    assert np.array_equal(load_faces(tmp_path / "pictures", SIZE, 9), faces)


def test_faces_of_another_size_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "crops.npy", synthetic_faces(2, 16))
    with pytest.raises(
        ExportError, match=r"expected aligned faces uint8 \(N, 32, 32, 3\) .* \(2, 16, 16, 3\)"
    ):
        load_faces(tmp_path / "crops.npy", SIZE, 9)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExportError, match=r"no crops\.npy and no pictures"):
        load_faces(tmp_path / "empty", SIZE, 9)
    np.savez(tmp_path / "several.npz", one=synthetic_faces(2, SIZE))
    with pytest.raises(ExportError, match=r"expected one array in .*several\.npz, found an archive"):
        load_faces(tmp_path / "several.npz", SIZE, 9)


def test_synthetic_faces_are_the_same_every_time() -> None:
    first, again = synthetic_faces(2, SIZE), synthetic_faces(2, SIZE)
    assert np.array_equal(first, again)
    assert first.std() > 20
