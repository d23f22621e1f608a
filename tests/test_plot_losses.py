"""The script that draws the losses of runs."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "plot_losses.py"))


def log(run: Path, *lines: dict) -> Path:
    run.mkdir()
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return run


def test_a_series_is_of_the_lines_that_have_the_loss(tmp_path: Path) -> None:
    run = log(tmp_path / "a", {"step": 20, "attack": 1.0}, {"epoch": 1}, {"step": 40, "attack": 0.5})
    assert SCRIPT["series_of"](run, "attack") == ([20, 40], [1.0, 0.5])
    assert SCRIPT["series_of"](run, "release") == ([], [])


def test_the_mean_is_over_the_last_ten_values() -> None:
    """Of 0 to 11: the first is 0, the tenth 4.5, the twelfth the mean of 2 to 11."""
    means = SCRIPT["moving_mean"]([float(i) for i in range(12)])
    assert means[[0, 9, 11]] == pytest.approx([0.0, 4.5, 6.5])


def test_runs_are_drawn_and_a_missing_loss_is_an_error(tmp_path: Path) -> None:
    runs = [log(tmp_path / name, {"step": 20, "attack": 1.0}) for name in "ab"]
    out = tmp_path / "curves.png"
    arguments = [*map(str, runs), "--out", str(out), "--loss", "attack"]
    result = CliRunner().invoke(SCRIPT["main"], [*arguments, "--loss", "release"])
    assert result.exit_code == 1
    assert "expected the loss 'release' in" in result.output
    assert not out.exists()
    assert CliRunner().invoke(SCRIPT["main"], arguments).exit_code == 0
    with Image.open(out) as picture:
        assert picture.size[0] == 880
