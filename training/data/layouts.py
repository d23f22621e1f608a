"""The data sets that training reads, told apart by their files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import celeba, celebahq
from .errors import DataError
from .folder import read_folder
from .records import FaceRecord, Split


@dataclass(frozen=True)
class Layout:
    """How a data set lies on disk.

    Attributes:
        signs: files and folders of which any one tells this layout; without any, it is never recognised
            but taken where no other is.
        read: lists a split.
    """

    signs: tuple[str, ...]
    read: Callable[[Path, Split], list[FaceRecord]]


LAYOUTS = {
    "celeba": Layout((celeba.PICTURES, celeba.LABELS), celeba.read_celeba),
    "celebahq": Layout((celebahq.PICTURES, celebahq.LABELS), celebahq.read_celebahq),
    "folder": Layout((), read_folder),
}


def read_faces(root: Path, split: Split, layout: str | None = None) -> list[FaceRecord]:
    """Lists a split of a data set.

    Args:
        layout: name of its layout; None recognises it.

    Raises:
        DataError: there is no such folder or layout, or the layout's reader finds something missing.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; a data set is expected there")
    name = layout or recognise_layout(root)
    if name not in LAYOUTS:
        raise DataError(f"expected one of the layouts {', '.join(LAYOUTS)}, found {name!r}")
    return LAYOUTS[name].read(root, split)


def recognise_layout(root: Path) -> str:
    """Name of the layout whose files are in a folder; ``folder`` where none's are.

    Raises:
        DataError: it has files of several.
    """
    found = [name for name, layout in LAYOUTS.items() if any((root / sign).exists() for sign in layout.signs)]
    if len(found) > 1:
        raise DataError(f"{root} has files of the layouts {' and '.join(found)}; say which with --layout")
    return found[0] if found else "folder"
