"""Where the bundles that come with the package are."""

from __future__ import annotations

from pathlib import Path

from .errors import BundleError
from .manifest import MANIFEST_NAME, Role

PRESET = "compact"


def default_bundle(role: Role) -> Path:
    """Folder of the shipped bundle for a role.

    Raises:
        BundleError: the installation holds none.
    """
    folder = Path(__file__).parent / "bundles" / PRESET / role
    if not (folder / MANIFEST_NAME).is_file():
        raise BundleError(
            f"this installation holds no {role} bundle (expected {folder}); name one with --bundle, "
            "or export one: python -m export.build --run RUN --out FOLDER"
        )
    return folder
