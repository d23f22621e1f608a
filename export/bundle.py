"""Writes bundles into one folder, whole or not at all: the mask's two, or the anonymiser's one."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from onnx import ModelProto

from runtime.authority import Secret, seal_bundle_model, unseal_model, write_key_file
from runtime.manifest import MANIFEST_NAME, Manifest, ModelFile, Role, TensorSpec, open_bundle, sha256_of

from .engine import Engine
from .errors import ExportError
from .folders import partial_of, replace_folder
from .onnx_graph import input_specs, output_specs
from .parity_report import PARITY_NAME, ParityReport
from .triton_repository import check_free as check_repositories
from .triton_repository import write_repositories

ROLES: tuple[Role, ...] = ("public", "authority")
REPOSITORIES = "triton_models"
RESTORE = "restore"
DEMO_KEY_NAME = "demo.key"


@dataclass(frozen=True, kw_only=True)
class Network:
    """A verified network: the bytes of its ONNX file, and what goes in and comes out."""

    data: bytes = field(repr=False)
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @classmethod
    def of(cls, model: ModelProto) -> Network:
        return cls(data=model.SerializeToString(), inputs=input_specs(model), outputs=output_specs(model))


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Everything that the two bundles hold, by the names in the manifest.

    Attributes:
        public: ``protect`` and ``attributes``.
        detector: ``pnet``, ``rnet`` and ``onet``; they go into both bundles.
        restore: the authority's secret.
    """

    public: Mapping[str, Network]
    detector: Mapping[str, Network]
    restore: Network


def check_free(out: Path, *, overwrite: bool, roles: Sequence[Role] = ROLES) -> None:
    """Refuses a folder that must not be replaced, before any work is done.

    Args:
        out: where the bundles are to go.
        overwrite: it may be replaced.
        roles: of the bundles that it then holds, no more and no fewer.

    Raises:
        ExportError: ``out`` exists and ``overwrite`` is not given, or it is no folder of such bundles.
    """
    if not out.exists():
        return
    if not overwrite:
        raise ExportError(f"{out} exists and is kept; choose another --out, or add --overwrite")
    found = tuple(role for role in ROLES if (out / role / MANIFEST_NAME).is_file())
    if found != tuple(roles):
        raise ExportError(
            f"{out} is not overwritten, for it holds no bundles of this command (expected "
            f"{' and '.join(roles)} with a {MANIFEST_NAME}, and no other); choose another --out"
        )
    if (out / REPOSITORIES).exists():
        check_repositories(out / REPOSITORIES, overwrite=True)


def write_bundles(
    out: Path,
    manifest: Manifest,
    networks: Networks,
    key: bytes,
    *,
    parity: ParityReport,
    new_key: Path | None = None,
    engines: Mapping[str, Engine] | None = None,
) -> None:
    """Writes both bundles and their Triton repositories under a temporary name, reads back, and renames.

    ``out/public`` and ``out/authority`` are the bundles, ``out/triton_models`` the repositories and
    plans, ``out/parity.json`` what was compared. The restorer is sealed in memory; only its ciphertext
    reaches the disk. Files beside these in a folder that is replaced are kept.

    Args:
        out: replaced if it exists, see ``check_free``.
        manifest: what both manifests have in common; role and models are filled in. If it says ``demo``,
            the key is written beside the sealed restorer.
        networks: verified graphs.
        key: 32 bytes that seal the restorer.
        parity: what was compared.
        new_key: where to write the key for the authority, readable by its owner only.
        engines: plans of public networks, if there are any.

    Raises:
        ExportError: a file cannot be written, or does not read back as it was written.
        SecretError: ``new_key`` exists or cannot be written.
    """
    out = out.resolve()
    with _beside(out) as partial:
        _write_role(partial / "public", manifest, {**networks.public, **networks.detector})
        authority = partial / "authority"
        _write_role(authority, manifest, networks.detector, sealed=(networks.restore, key))
        if manifest.demo:
            write_key_file(authority / DEMO_KEY_NAME, key)
            (authority / DEMO_KEY_NAME).chmod(0o644)  # for everybody, unlike every other key
        _read_back(partial, networks, key)
        write_repositories(partial / "public", authority, partial / REPOSITORIES, engines=engines)
        (partial / PARITY_NAME).write_text(parity.to_json() + "\n", encoding="utf-8")
        if new_key is not None:
            write_key_file(new_key, key)
        try:
            replace_folder(out, partial, (*ROLES, REPOSITORIES, PARITY_NAME))
        except BaseException:
            if new_key is not None and partial.exists():  # else it is in place, and needs its key
                new_key.unlink(missing_ok=True)
            raise


def write_public_bundle(
    out: Path, manifest: Manifest, networks: Mapping[str, Network], *, parity: ParityReport
) -> None:
    """Writes a public bundle that has no authority, ``out/public``, and ``out/parity.json``, as above.

    Raises:
        ExportError: a file cannot be written, or does not read back as it was written.
    """
    out = out.resolve()
    with _beside(out) as partial:
        _write_role(partial / "public", manifest, networks)
        public = open_bundle(partial / "public")
        _check_same(partial, [(public.read(name), network) for name, network in networks.items()])
        (partial / PARITY_NAME).write_text(parity.to_json() + "\n", encoding="utf-8")
        replace_folder(out, partial, ("public", PARITY_NAME))


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` to write into; what is not renamed is gone afterwards.

    Raises:
        ExportError: something cannot be written.
    """
    partial = partial_of(out)
    try:
        partial.mkdir(parents=True)
        yield partial
    except OSError as error:
        raise ExportError(f"cannot write {error.filename or out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_role(
    folder: Path,
    manifest: Manifest,
    plain: Mapping[str, Network],
    *,
    sealed: tuple[Network, bytes] | None = None,
) -> None:
    """Writes one bundle: plain networks and, for the authority, the restorer and the key that seals it."""
    folder.mkdir()
    models = {
        name: _write_network(folder / f"{name}.onnx", network, network.data)
        for name, network in plain.items()
    }
    if sealed is not None:
        restore, key = sealed
        ciphertext = seal_bundle_model(restore.data, Secret.from_key(key))
        path = folder / f"{RESTORE}.onnx.sealed"
        models[RESTORE] = dataclasses.replace(_write_network(path, restore, ciphertext), sealed=True)
    role: Role = "public" if sealed is None else "authority"
    complete = dataclasses.replace(manifest, role=role, models=models)
    (folder / MANIFEST_NAME).write_text(complete.to_json() + "\n", encoding="utf-8")


def _write_network(path: Path, network: Network, data: bytes) -> ModelFile:
    path.write_bytes(data)
    return ModelFile(path=path.name, sha256=sha256_of(data), inputs=network.inputs, outputs=network.outputs)


def _read_back(folder: Path, networks: Networks, key: bytes) -> None:
    """Opens both bundles as the runtime does and compares every byte."""
    public, authority = (open_bundle(folder / role) for role in ROLES)
    pairs = [(public.read(name), network) for name, network in networks.public.items()]
    for bundle in (public, authority):
        pairs += [(bundle.read(name), network) for name, network in networks.detector.items()]
    pairs.append((unseal_model(authority, Secret.from_key(key)), networks.restore))
    _check_same(folder, pairs)


def _check_same(folder: Path, pairs: Iterable[tuple[bytes, Network]]) -> None:
    if any(data != network.data for data, network in pairs):
        raise ExportError(f"what was written to {folder} reads back differently; check the disk")
