"""Writes the public and the authority's Triton model repository from their bundles.

The public one serves ``protect`` and ``attributes``, the authority's ``restore``. Faces are detected where
the photo is, by the client, so the detector's networks are in neither. The restorer is a secret: the
authority's repository holds its configuration only.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from runtime.manifest import Bundle, Role, open_bundle

from .errors import ExportError
from .folders import partial_of, replace_folder
from .triton_config import ONNX, PLATFORMS, TENSORRT, config_text

MODELS: dict[Role, tuple[str, ...]] = {"public": ("protect", "attributes"), "authority": ("restore",)}
VERSION = "1"

_RESTORE_NOTE = """\
The restorer is the authority's secret, so its model file is missing here and must never be put on a disk.
What starts the authority's server unseals it in memory, into a tmpfs that also gets a copy of this folder."""

# Every file that this module may write, relative to the folder of both repositories.
_CONFIGS = {
    f"{role}/{name}/{platform.config}"
    for role, names in MODELS.items()
    for name in names
    for platform in PLATFORMS
}
_OURS = _CONFIGS | {
    f"public/{name}/{VERSION}/{platform.file}" for name in MODELS["public"] for platform in PLATFORMS
}


def write_repositories(
    public: Path,
    authority: Path | None,
    out: Path,
    *,
    overwrite: bool = False,
    plans: Mapping[str, bytes] | None = None,
) -> None:
    """Writes ``out/public`` and, with an authority's bundle, ``out/authority``, whole or not at all.

    Args:
        public: folder of the public bundle. Its ``protect`` and ``attributes`` are copied byte by byte.
        authority: folder of the authority's bundle. Of its restorer only the hash is checked.
        out: its two repositories are replaced as a whole, so that no plan of other weights survives; other
            entries are kept.
        overwrite: replace what is in ``out``.
        plans: TensorRT plans by model, public models only, built for batches from 1 to ``max_batch``.

    Raises:
        BundleError: a folder is no bundle, lacks a network, or holds one that was changed.
        ExportError: ``out`` must not be replaced or cannot be written; a bundle has another role or a network
            that Triton cannot be told of; a plan is of no public model.
        MissingExtraError: tritonclient is not installed.
    """
    _check_free(out, overwrite=overwrite)
    files = _public_files(_open(public, "public"), plans or {})
    if authority is not None:
        files |= _authority_files(_open(authority, "authority"))
    out = out.resolve()
    partial = partial_of(out)
    try:
        for name, data in files.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        replace_folder(out, partial, MODELS)
    except OSError as error:
        raise ExportError(f"cannot write {error.filename or out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_free(out: Path, *, overwrite: bool) -> None:
    """Refuses a folder that must not be replaced: it would take somebody's own models along."""
    if not out.exists():
        return
    if not overwrite:
        raise ExportError(f"{out} exists and is kept; choose another --out, or add --overwrite")
    found = {
        path.relative_to(out).as_posix()
        for role in MODELS
        for path in (out / role).rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    if not found:
        raise ExportError(
            f"{out} is not overwritten, for it holds no model repositories of this command "
            f"(expected {' and '.join(MODELS)}); choose another --out"
        )
    if strangers := sorted(found - _OURS):
        raise ExportError(
            f"{out} is not overwritten, for this command did not write {strangers[0]}; "
            "move it elsewhere, or choose another --out"
        )


def _open(folder: Path, role: Role) -> Bundle:
    bundle = open_bundle(folder)
    if bundle.manifest.role != role:
        raise ExportError(f"expected the {role} bundle in {folder}, found the {bundle.manifest.role} one")
    return bundle


def _public_files(bundle: Bundle, plans: Mapping[str, bytes]) -> dict[str, bytes]:
    names = MODELS["public"]
    if others := sorted(plans.keys() - set(names)):
        raise ExportError(
            f"expected TensorRT plans of {' and '.join(names)} only, found one of {others[0]!r}"
        )
    files: dict[str, bytes] = {}
    for name in names:
        data = bundle.read(name)
        if bundle.manifest.models[name].sealed:
            raise ExportError(f"{name!r} in {bundle.folder} is sealed, a server could not load it")
        files |= _configs(bundle, name)
        files[f"public/{name}/{VERSION}/{ONNX.file}"] = data
        if name in plans:
            files[f"public/{name}/{VERSION}/{TENSORRT.file}"] = plans[name]
    return files


def _authority_files(bundle: Bundle) -> dict[str, bytes]:
    (name,) = MODELS["authority"]
    bundle.read(name)  # the configuration is that of an intact file, though the file is not copied
    return _configs(bundle, name, note=_RESTORE_NOTE)


def _configs(bundle: Bundle, name: str, *, note: str = "") -> dict[str, bytes]:
    manifest = bundle.manifest
    return {
        f"{manifest.role}/{name}/{platform.config}": config_text(
            name, manifest.models[name], manifest.max_batch, platform, note=note
        ).encode()
        for platform in PLATFORMS
    }
