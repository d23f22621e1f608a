"""Every command and every program in the README runs as it stands there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from export.build import main as build_main
from runtime.cli import main as cli_main
from training.__main__ import main as training_main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^(erasablemask .*)$", README, flags=re.MULTILINE)
PROGRAMS = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
# They download a server, or run until a signal; tests/test_serve_public.py runs them.
SERVER_COMMANDS = ("serve-env", "serve", "health")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stands in for the checkout, so that what the commands write does not land in it."""
    place = tmp_path_factory.mktemp("readme")
    for name in ("examples", "runtime"):
        (place / name).symlink_to(ROOT / name)
    return place


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)


def test_commands_run_in_the_order_of_the_readme(folder: Path) -> None:
    runnable = [
        command
        for command in COMMANDS
        if "--bundle bundle/" not in command and shlex.split(command)[1] not in SERVER_COMMANDS
    ]
    assert {shlex.split(command)[1] for command in runnable} == {
        "protect",
        "verify",
        "erase",
        "keygen",
        "seal",
        "unseal",
    }
    for command in runnable:
        done = run(folder, "-m", "runtime.cli", *shlex.split(command)[1:])
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert (folder / "restored.jpg").exists()


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_run(folder: Path, program: str) -> None:
    place = folder / "program"
    place.mkdir(exist_ok=True)
    for name in ("examples", "runtime"):
        if not (place / name).exists():
            (place / name).symlink_to(ROOT / name)
    done = run(place, "-c", program)
    assert done.returncode == 0, done.stderr
    assert (place / "protected.jpg").exists()


@pytest.mark.parametrize("name", SERVER_COMMANDS)
def test_options_of_server_commands_exist(name: str) -> None:
    lines = [command for command in COMMANDS if shlex.split(command)[1] == name]
    assert lines
    help_text = CliRunner().invoke(cli_main, [name, "--help"]).output
    for line in lines:
        for option in re.findall(r"--[a-z-]+", line):
            assert option in help_text, option


@pytest.mark.parametrize(("module", "command"), [("training", training_main), ("export.build", build_main)])
def test_options_of_training_and_export_exist(module: str, command) -> None:
    lines = re.findall(rf"^python -m {re.escape(module)} (.*)$", README, flags=re.MULTILINE)
    assert lines
    help_text = CliRunner().invoke(command, ["--help"]).output
    for line in lines:
        for option in re.findall(r"--[a-z-]+", line):
            assert option in help_text, option
