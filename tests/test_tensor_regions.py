"""The names of Triton's shared memory, taken away."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import ServingError
from runtime.serving import tensor_regions
from runtime.serving.tensor_regions import TensorRegions


def test_only_this_servers_names_are_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_regions, "_FOLDER", tmp_path)
    mine, other = TensorRegions(), TensorRegions()
    names = [f"{mine.prefix}a", f"{mine.prefix}b", f"{other.prefix}a", "unrelated"]
    for name in names:
        (tmp_path / name).write_bytes(b"faces")
    assert mine.prefix in mine.option
    assert mine.hide() == 2
    assert mine.hide() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[2:])


def test_a_name_that_stays_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_regions, "_FOLDER", tmp_path)
    regions = TensorRegions()
    (tmp_path / f"{regions.prefix}a").mkdir()
    with pytest.raises(ServingError, match=r"cannot remove .*, through which other users could read faces"):
        regions.hide()
