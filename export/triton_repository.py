"""Writes the public and the authority's Triton model repository from their bundles.

The public one serves ``protect`` and ``attributes``, the authority's ``restore``; an anonymiser's public one
serves ``anonymise``. Faces are detected where
the photo is, by the client, so the detector's networks are in neither. The restorer is a secret: the
authority's repository holds its configuration only.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from runtime.manifest import Bundle
from runtime.serving.repository import (
    ENGINES,
    MODELS,
    VERSION,
    configurations,
    names_in,
    names_of,
    open_role,
    read_model,
)
from runtime.serving.triton_config import ONNX, PLATFORMS, TENSORRT

from .engine import Engine, write_engine
from .errors import ExportError
from .folders import partial_of, replace_folder

_RESTORE_NOTE = """\
The restorer is the authority's secret, so its model file is missing here and must never be put on a disk.
What starts the authority's server unseals it in memory, into a tmpfs that also gets a copy of this folder."""

# Every file that this module may write, relative to the folder of both repositories.
_CONFIGS = {
    f"{role}/{name}/{platform.config}" for role in MODELS for name in names_in(role) for platform in PLATFORMS
}
_OURS = (
    _CONFIGS
    | {f"public/{name}/{VERSION}/{platform.file}" for name in names_in("public") for platform in PLATFORMS}
    | {f"{ENGINES}/{name}.plan{suffix}" for name in names_in("public") for suffix in ("", ".json")}
)
_FOLDERS = (*MODELS, ENGINES)


def write_repositories(
    public: Path,
    authority: Path | None,
    out: Path,
    *,
    overwrite: bool = False,
    engines: Mapping[str, Engine] | None = None,
) -> None:
    """Writes ``out/public`` and, with an authority's bundle, ``out/authority``, whole or not at all.

    With engines also ``out/engines``, each plan with its description.

    Args:
        public: folder of the public bundle. Its networks are copied byte by byte, but for the detector's.
        authority: folder of the authority's bundle. Of its restorer only the hash is checked.
        out: its repositories and engines are replaced as a whole, so that no plan of other weights survives;
            other entries are kept.
        overwrite: replace what is in ``out``.
        engines: TensorRT plans by model, public models only, built for batches from 1 to ``max_batch``. Those
            of plain TensorRT also go into the repository; Triton has no other.

    Raises:
        BundleError: a folder is no bundle or one of another role, lacks a network, or holds one that was
            changed or that Triton cannot be told of.
        ExportError: ``out`` must not be replaced or cannot be written; a plan is of no public model.
        MissingExtraError: tritonclient is not installed.
    """
    check_free(out, overwrite=overwrite)
    engines = engines or {}
    files = _public_files(open_role(public, "public"), engines)
    if authority is not None:
        files |= _authority_files(open_role(authority, "authority"))
    out = out.resolve()
    partial = partial_of(out)
    try:
        for name, data in files.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        for name, engine in engines.items():
            path = partial / ENGINES / f"{name}.plan"
            path.parent.mkdir(exist_ok=True)
            write_engine(path, engine)
        replace_folder(out, partial, _FOLDERS)
    except OSError as error:
        raise ExportError(f"cannot write {error.filename or out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_free(out: Path, *, overwrite: bool) -> None:
    """Refuses a folder that must not be replaced: it would take somebody's own models along.

    Raises:
        ExportError: ``out`` exists and ``overwrite`` is not given, or it holds what is not of this module.
    """
    if not out.exists():
        return
    if not overwrite:
        raise ExportError(f"{out} exists and is kept; choose another --out, or add --overwrite")
    found = {
        path.relative_to(out).as_posix()
        for folder in _FOLDERS
        for path in (out / folder).rglob("*")
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


def _public_files(bundle: Bundle, engines: Mapping[str, Engine]) -> dict[str, bytes]:
    names = names_of(bundle.manifest)
    if others := sorted(engines.keys() - set(names)):
        raise ExportError(
            f"expected TensorRT plans of {' and '.join(names)} only, found one of {others[0]!r}"
        )
    files: dict[str, bytes] = {}
    for name in names:
        data = read_model(bundle, name)
        files |= _configs(bundle, name)
        files[f"public/{name}/{VERSION}/{ONNX.file}"] = data
        if name in engines and engines[name].sidecar.flavour == "tensorrt":
            files[f"public/{name}/{VERSION}/{TENSORRT.file}"] = engines[name].plan
    return files


def _authority_files(bundle: Bundle) -> dict[str, bytes]:
    (name,) = names_of(bundle.manifest)
    bundle.read(name)  # the configuration is that of an intact file, though the file is not copied
    return _configs(bundle, name, note=_RESTORE_NOTE)


def _configs(bundle: Bundle, name: str, *, note: str = "") -> dict[str, bytes]:
    texts = configurations(bundle, name, note=note)
    return {f"{bundle.manifest.role}/{name}/{path}": text.encode() for path, text in texts.items()}
