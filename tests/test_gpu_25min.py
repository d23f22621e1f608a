"""The script for a machine without a network, with a Python that only pretends to train."""

import os
import subprocess
import sys
import tarfile
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "gpu_25min.sh"
LIMIT = 15 * 2**20
PYTHON = """#!/usr/bin/env bash
# Leaves the files that each module would; one named in FAILS leaves half of them.
case "$*" in
  "-m pip "*) mkdir "$8"; [ "$FAILS" != pip ] || exit 1; touch "$8/whole" ;;
  *unpack*) mkdir -p "$5" ;;
  *--dry-run*) echo plan ;;
  "-m training.slim "*) mkdir "$4"; [ "$FAILS" != slim ] || exit 1; cp "$3/checkpoint.pt" "$4" ;;
  *)
    while [ "$1" != --out ]; do shift; done
    mkdir -p "$2"; truncate -s 16M "$2/checkpoint.pt"; echo "$RANDOM" >>"$2/checkpoint.pt"
    touch "$2/config.json"
    [ -z "$SAMPLES" ] || { mkdir -p "$2/samples"; truncate -s 16M "$2/samples/attack-001.png"; }
    [ "$FAILS" != train ] || exit 3 ;;
esac
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs GNU coreutils")


@pytest.fixture
def call(tmp_path):
    """Runs the script; returns its exit status."""
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    (tmp_path / "carry" / "wheels").mkdir(parents=True)
    (tmp_path / "carry" / "wheels" / "a.whl").touch()

    def run(fails: str = "", samples: str = "") -> int:
        folders = [str(tmp_path / name) for name in ("carry", "work", "out")]
        environment = os.environ | {"PYTHON": str(python), "FAILS": fails, "SAMPLES": samples}
        return subprocess.run(["bash", str(SCRIPT), *folders], env=environment, check=False).returncode

    return run


def whole(folder: Path, name: str) -> bytes:
    return b"".join(part.read_bytes() for part in sorted(folder.glob(f"{name}.*")))


def check_sums(folder: Path) -> set[str]:
    """The files that SHA256SUMS names, all of them as it says."""
    sums = dict(reversed(line.split()) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert sums == {name: sha256((folder / name).read_bytes()).hexdigest() for name in sums}
    return set(sums)


@pytest.mark.parametrize("fails", ["", "train"])
def test_every_file_is_small_and_has_its_hash(call, tmp_path, fails):
    assert call(fails, samples="yes") == (3 if fails else 0)
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} - {"SHA256SUMS"} == check_sums(out)
    assert max(path.stat().st_size for path in out.iterdir()) <= LIMIT
    assert whole(out, "checkpoint.pt") == (tmp_path / "work" / "run" / "checkpoint.pt").read_bytes()
    with tarfile.open(fileobj=BytesIO(whole(out, "samples.tar"))) as samples:
        assert samples.getnames() == ["samples", "samples/attack-001.png"]


def test_a_run_without_samples_yet_is_collected(call, tmp_path):
    assert call() == 0
    assert check_sums(tmp_path / "out") == {
        "checkpoint.pt.00",
        "checkpoint.pt.01",
        "config.json",
        "plan.txt",
        "train.log",
    }


def test_what_was_collected_stays_until_there_is_better(call, tmp_path):
    assert call(samples="yes") == 0
    before = whole(tmp_path / "out", "checkpoint.pt")
    assert call("slim", samples="yes") != 0
    assert whole(tmp_path / "out", "checkpoint.pt") == before
    assert call(samples="yes") == 0
    assert whole(tmp_path / "out", "checkpoint.pt") == (tmp_path / "work/run/checkpoint.pt").read_bytes()
    check_sums(tmp_path / "out")


def test_packages_half_installed_are_installed_again(call, tmp_path):
    assert call("pip") != 0
    assert not (tmp_path / "work" / "site").exists()
    assert call() == 0
    assert (tmp_path / "work" / "site" / "whole").exists()
