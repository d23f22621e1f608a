"""``make bench`` and ``make bench-quick``: every command in them, and in their page of the docs, exists."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from benchmarks.report.page import SECTIONS

ROOT = Path(__file__).parents[1]
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def commands_in(text: str) -> list[str]:
    """Whatever runs a benchmark, on one line each."""
    joined = text.replace("\\\n", " ")
    return re.findall(r"-m (benchmarks\.[^\n`;]*)", joined)


def planned(*arguments: str) -> str:
    """What make would do, without doing it."""
    done = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def help_of(command: str) -> tuple[str, list[str]]:
    """The help of a command line's own command, and the options that the line gives it."""
    module, *words = command.split()
    found = importlib.import_module(
        module if module == "benchmarks.model_card" else f"{module}.__main__"
    ).main
    if isinstance(found, click.Group):
        found = found.get_command(click.Context(found), words[0])
        assert found is not None, command
    return CliRunner().invoke(found, ["--help"]).output, re.findall(r"--[a-z][a-z-]*", command)


@needs_make
@pytest.mark.parametrize(
    "arguments",
    [
        ("bench-quick",),
        (
            "bench",
            "BENCH=/nowhere",
            "FACES=faces",
            "PACK=pack",
            "LPIPS_ALEX=alex",
            "LPIPS_VGG=vgg",
            "ANONYMISER=anonymiser",
        ),
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_of_a_target_exist(arguments: tuple[str, ...]) -> None:
    commands = commands_in(planned(*arguments))
    assert len(commands) >= 5
    assert commands[-1].startswith("benchmarks.report ")
    for command in commands:
        text, options = help_of(command)
        assert options
        for option in options:
            assert option in text, f"{option} of {command}"


@needs_make
def test_a_quick_run_needs_nothing_outside_and_overwrites_no_result() -> None:
    """It reads the committed thresholds, and writes below build alone."""
    text = planned("bench-quick")
    assert "shared" not in text
    written = re.findall(r"--out (\S+)", text)
    assert written
    assert all(path.startswith("build/bench-quick/") for path in written)


@needs_make
def test_what_needs_more_is_left_out_aloud() -> None:
    commands = commands_in(plan := planned("bench", "BENCH=/nowhere"))
    assert not any("peers" in command or "latency networks" in command for command in commands)
    assert "Left out without FACES=: latency, serving_int8" in plan
    assert "Left out without PACK=: peers, eraser" in plan
    assert not any("ablations" in command for command in commands)
    assert "Left out without LPIPS_ALEX=: ablations" in plan
    assert "Left out without ANONYMISER=: anonymiser, anonymiser_curve, photo_anonymiser, serving" in plan
    assert "peers, eraser, reconstruction" in planned("bench", "BENCH=/nowhere", "ANONYMISER=anonymiser")


@needs_make
@pytest.mark.parametrize("given", [True, False])
def test_the_run_is_the_bundles_own_unless_one_is_given(given: bool, tmp_path: Path) -> None:
    """It is recovered before anything that uses it, and only then."""
    plan = planned("bench", "BENCH=/nowhere", "LPIPS_ALEX=alex", *([f"RUN={tmp_path}"] if given else []))
    recovering = plan.find("-m export.recover")
    assert (recovering < 0) == given
    used = f"--base {tmp_path if given else '/nowhere/run'}"
    assert recovering < plan.find(used)


@needs_make
def test_every_kind_that_is_there_is_in_the_full_run() -> None:
    text = planned("bench", "BENCH=/nowhere", "FACES=faces", "PACK=pack", "LPIPS_ALEX=alex", "ANONYMISER=a")
    for kind in ("thresholds", "target_choice", "efficacy", "owners", "robustness", "ablations", "peers"):
        assert f"{kind}.json" in text
    for kind in (
        "hardened",
        "eraser",
        "photo",
        "latency",
        "latency_layers",
        "serving",
        "serving_int8",
        "serving_overhead",
        "serving_split",
        "serving_sweep",
        "soak",
        "anonymiser",
        "anonymiser_curve",
        "photo_anonymiser",
        "serving_anonymiser",
        "reconstruction",
    ):
        assert f"--out /nowhere/{kind}.json" in text


@pytest.mark.parametrize(
    ("page", "least"), [("benchmarks", 9), ("peers", 1), ("hackers", 2), ("anonymiser", 4)]
)
def test_commands_of_the_docs_exist(page: str, least: int) -> None:
    commands = commands_in((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))
    assert len(commands) >= least
    for command in commands:
        shown, options = help_of(command)
        for option in options:
            assert option in shown, f"{option} of {command}"


def test_commands_that_the_report_names_for_gaps_exist() -> None:
    from benchmarks.efficacy.__main__ import COMMANDS as EFFICACY
    from benchmarks.latency.__main__ import COMMANDS as LATENCY
    from benchmarks.serving.__main__ import COMMANDS as SERVING

    there = {"efficacy": EFFICACY, "latency": LATENCY, "serving": SERVING}
    for kind in ("efficacy", "owners", "robustness", "ablations", "photo", "latency", "serving", "soak"):
        _, _, module, name = SECTIONS[kind][1].split()
        assert name in there[module.removeprefix("benchmarks.")]
