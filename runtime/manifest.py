"""The bundle: a folder with a ``manifest.json``, the only contract between training and serving.

A bundle holds the networks as ONNX files and everything needed to use them. The mask's public one has
``protect``, ``attributes`` and the detector; the authority's only ``restore``, sealed, and the detector. The
anonymiser has a public one only, with ``anonymise`` and the detector.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .errors import BundleError
from .manifest_checks import check_manifest
from .versioned_json import FileFormat

MANIFEST_NAME = "manifest.json"
_REMEDY = "get the bundle again from where it was published"
_FORMAT = FileFormat(name="erasablemask-bundle", version=1, called=MANIFEST_NAME, remedy=_REMEDY)

Role = Literal["public", "authority"]
System = Literal["mask", "anonymiser"]


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output: its name, NumPy dtype and shape, ``-1`` being the batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """One network of the bundle. ``sealed`` files hold AES-256-GCM ciphertext; the hash is of the file."""

    path: str
    sha256: str
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    sealed: bool = False


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything the runtime must know of a bundle.

    Attributes:
        system: ``mask`` or ``anonymiser``; bundles from before there were two say none, and are the mask's.
        role: ``public`` or ``authority``.
        name: the training preset, for people.
        image_size: side of the square crop that enters the networks, in pixels.
        crop_template: ``(5, 2)`` landmarks in that crop as fractions of its side.
        attributes: names, in the order of the network's attribute vector, each 0 or 1; none of the
            anonymiser.
        strength: default share of the perturbation features in Eq. 6, ``1 - beta``, in [0, 1]; of the
            anonymiser, default strength of its noise.
        injection: default weight of the clean branch, gamma, in [0, 1]; 0 of the anonymiser.
        max_batch: largest batch of faces served at once.
        precision: of the networks, such as ``fp16`` or ``int8``; docs/export.md has them all.
        target: description of the target identity; empty of the anonymiser.
        terms: terms of use of the weights.
        demo: the authority's secret is public; for demonstrations only.
        training: run, commit, seed, steps and so on, for people.
        measured: figures of the benchmarks, for people.
        models: ``protect``, ``attributes``, ``restore``, or ``anonymise``, and the detector's ``pnet``,
            ``rnet``, ``onet``.
    """

    role: Role
    name: str
    image_size: int
    crop_template: tuple[tuple[float, float], ...]
    attributes: tuple[str, ...]
    strength: float
    injection: float
    max_batch: int
    precision: str
    opset: int
    target: str
    terms: str
    system: System = "mask"
    demo: bool = False
    training: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    models: dict[str, ModelFile] = field(default_factory=dict)

    @property
    def float32_only(self) -> bool:
        """Whether its networks must be computed in float32: the anonymiser's steps move in anything less."""
        return self.system == "anonymiser"

    def to_json(self) -> str:
        """The manifest as indented JSON with a stable order."""
        return _FORMAT.to_json(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Parses a manifest.

        Raises:
            BundleError: not JSON, another format or version, or a field that is missing, unknown or wrong.
        """
        return _FORMAT.parse(text, cls._of_fields)

    @classmethod
    def _of_fields(cls, raw: dict[str, Any]) -> Manifest:
        check_manifest(raw)
        raw["models"] = {name: _model_file(model) for name, model in raw["models"].items()}
        raw["crop_template"] = tuple(tuple(point) for point in raw["crop_template"])
        raw["attributes"] = tuple(raw["attributes"])
        return cls(**raw)


def _model_file(raw: dict[str, Any]) -> ModelFile:
    specs = {
        side: tuple(TensorSpec(name=t["name"], dtype=t["dtype"], shape=tuple(t["shape"])) for t in raw[side])
        for side in ("inputs", "outputs")
    }
    return ModelFile(**{**raw, **specs})


def sha256_of(data: bytes) -> str:
    """Hex SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk, its manifest parsed. Open one with ``open_bundle``."""

    folder: Path
    manifest: Manifest

    def read(self, model: str) -> bytes:
        """Bytes of one network's file, hash checked on the very bytes that are returned.

        Raises:
            BundleError: the bundle has no such network, its file is missing, or the hash differs.
        """
        entry = self.manifest.models.get(model)
        if entry is None:
            have = ", ".join(sorted(self.manifest.models)) or "none"
            raise BundleError(
                f"the {self.manifest.role} bundle {self.folder} has no network {model!r} (it has: {have})"
            )
        path = self.folder / entry.path
        if path.resolve().parent != self.folder.resolve():
            raise BundleError(f"{MANIFEST_NAME} names a file outside its bundle: {entry.path!r}")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BundleError(f"cannot read {path}: {error.strerror or error}") from error
        if (found := sha256_of(data)) != entry.sha256:
            raise BundleError(
                f"{path} was changed or damaged: expected SHA-256 {entry.sha256}, found {found}; {_REMEDY}"
            )
        return data


def open_bundle(folder: Path) -> Bundle:
    """Opens a bundle folder. Hashes are checked when a network's file is read.

    Raises:
        BundleError: there is no manifest, or it cannot be understood.
    """
    path = Path(folder) / MANIFEST_NAME
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{folder} is not a bundle: cannot read {path}: {error.strerror or error}"
        ) from error
    return Bundle(Path(folder), Manifest.from_json(text))
