"""Rotation of an authority bundle's secret: the restorer sealed again under another key or passphrase."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path

from .authority import Secret, seal_bundle_model, unseal_model
from .errors import BundleError
from .manifest import MANIFEST_NAME, Bundle, open_bundle, sha256_of


def reseal_bundle(bundle: Bundle, old: Secret, new: Secret, folder: Path) -> Bundle:
    """Writes a copy of an authority bundle whose restorer opens with ``new`` only.

    Just the files that the manifest names are copied: a demo key next to the old bundle stays behind. The
    manifest's ``demo`` stays what it was, for a restorer that was once public is not made secret again.

    Args:
        bundle: an authority bundle.
        old: opens it.
        new: will open the copy.
        folder: of the copy; must not exist. It appears complete or not at all.

    Raises:
        BundleError: not an authority bundle, a file is missing or changed, or the folder cannot be made.
        SecretError: ``old`` does not open the bundle.
    """
    if folder.exists():
        raise BundleError(f"{folder} exists; choose another folder for the new bundle")
    sealed = seal_bundle_model(unseal_model(bundle, old), new)
    manifest = bundle.manifest
    entry = dataclasses.replace(manifest.models["restore"], sha256=sha256_of(sealed))
    manifest = dataclasses.replace(manifest, models={**manifest.models, "restore": entry})
    contents = {model.path: bundle.read(name) for name, model in manifest.models.items() if name != "restore"}
    contents[entry.path] = sealed
    contents[MANIFEST_NAME] = (manifest.to_json() + "\n").encode()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            for name, data in contents.items():
                (draft / name).write_bytes(data)
            draft.chmod(0o755)
            draft.rename(folder)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    except OSError as error:
        raise BundleError(f"cannot write the bundle {folder}: {error.strerror or error}") from error
    return open_bundle(folder)
