"""Puts a folder that was written under a temporary name in its place, whole or not at all."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Collection
from pathlib import Path


def partial_of(out: Path) -> Path:
    """A new name beside ``out``, on the same file system, to write under before ``replace_folder``."""
    return out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.partial")


def replace_folder(out: Path, partial: Path, names: Collection[str]) -> None:
    """Puts ``partial`` in the place of ``out``, which comes back if that fails.

    Args:
        out: absolute; may exist.
        partial: from ``partial_of(out)``, written in full.
        names: entries of ``out`` that are replaced or dropped; its other entries are kept.

    Raises:
        OSError: something cannot be copied or renamed; ``out`` is as it was.
    """
    if not out.exists():
        partial.rename(out)
        return
    for extra in out.iterdir():
        if extra.name in names:
            continue
        if extra.is_dir():
            shutil.copytree(extra, partial / extra.name)
        else:
            shutil.copy2(extra, partial / extra.name)
    old = partial.with_suffix(".old")
    out.rename(old)
    try:
        partial.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
