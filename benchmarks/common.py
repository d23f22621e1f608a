"""What the benchmarks share: picture lists, and where a result was made."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import numpy as np

from runtime.errors import ErasableMaskError
from runtime.lazy_group import LazyGroup
from runtime.manifest import Bundle, sha256_of
from runtime.processor import processor_name

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
VERSIONED = (
    *("numpy", "opencv-python-headless", "onnxruntime", "openvino", "pillow"),
    *("torch", "kornia", "lpips", "foolbox"),
)


def command_group(package: str, about: str, table: Mapping[str, str], example: str) -> LazyGroup:
    """The command ``python -m PACKAGE`` with the commands of its modules.

    Args:
        about: its help.
        table: the line shown of each command.
        example: the command whose help the example shows.
    """

    def refuse_without_commit() -> None:
        """Before hours are spent on what could not be written."""
        with as_click_errors():
            commit()

    return LazyGroup(
        name=f"python -m {package}",
        callback=refuse_without_commit,
        package=package,
        table=table,
        help=about,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=f"Example: python -m {package} {example} --help",
    )


def pictures_below(folder: Path) -> list[Path]:
    """Every picture of a folder and those below it, in the order of their paths.

    Raises:
        ValueError: there is none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    if not found:
        raise ValueError(f"no picture in {folder}")
    return found


def draw(paths: Sequence[Path], count: int, seed: int) -> list[Path]:
    """``count`` of the paths, drawn without replacement by ``seed``, in their own order.

    Raises:
        ValueError: there are fewer.
    """
    if len(paths) < count:
        raise ValueError(f"expected at least {count} pictures, found {len(paths)}")
    chosen = np.random.default_rng(seed).choice(len(paths), count, replace=False)
    return [paths[i] for i in sorted(chosen)]


def names_below(folder: Path, paths: Sequence[Path]) -> list[str]:
    """What a result calls its pictures: their paths below a folder, or their names where not in it."""
    return [
        path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name for path in paths
    ]


@contextmanager
def as_click_errors() -> Iterator[None]:
    """What a user can mend ends a command with its message, not with a traceback."""
    try:
        yield
    except (ErasableMaskError, ValueError) as error:
        raise click.ClickException(str(error)) from error


def commit() -> str:
    """The commit of this code, ``-dirty`` where no commit has it.

    Raises:
        ValueError: git does not say.
    """
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        raise ValueError(
            f"a result names the commit that it was made with, and git does not say: {said.strip()}; install "
            "git and run this in a clone of the repository"
        ) from error


def environment() -> dict[str, Any]:
    """Commit, processor and versions that a result was made with.

    Raises:
        ValueError: see ``commit``.
    """
    return {
        "commit": commit(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in VERSIONED},
    }


def digest_of(values: Any) -> str:
    """SHA-256 of plain values."""
    return sha256_of(json.dumps(values, sort_keys=True).encode())


def digest_of_files(paths: Iterable[Path]) -> str:
    """SHA-256 of the names and contents of files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def about_bundle(bundle: Bundle, *networks: str) -> dict[str, Any]:
    """Name, precision and the hashes of a bundle's networks, as results name it."""
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "precision": manifest.precision,
        "sha256": {name: manifest.models[name].sha256 for name in networks},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
