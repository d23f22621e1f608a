"""What a TensorRT plan is and where it runs: JSON beside the plan, ``protect.plan`` -> ``protect.plan.json``.

A plan runs only on the TensorRT version and the GPU architecture that it was built for, and says neither. Its
hash here tells a plan of another build and a damaged one from the right one; it does not tell who wrote it.
A plan is executable: load only what you built, or got from somebody you trust.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import BackendError, BundleError
from .manifest_checks import FLAG, SHA256, Rule, check_fields, is_list, is_number, is_text, whole
from .versioned_json import FileFormat

SUFFIX = ".json"
FLAVOURS = ("tensorrt", "tensorrt_rtx")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")

_REBUILD = "rebuild the plan on this machine: python -m export.repository --tensorrt ..."
_FORMAT = FileFormat(name="erasablemask-engine", version=1, called="a plan's sidecar", remedy=_REBUILD)
_MAX_BATCH = 4096


@dataclass(frozen=True, kw_only=True)
class BatchProfile:
    """How many faces a plan takes at once: at least, tuned for, at most.

    Raises:
        ValueError: not ``1 <= min <= opt <= max <= 4096``.
    """

    min: int = 1
    opt: int = 8
    max: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max <= _MAX_BATCH:
            raise ValueError(
                f"a batch profile must have 1 <= min <= opt <= max <= {_MAX_BATCH}, "
                f"found min {self.min}, opt {self.opt}, max {self.max}"
            )


@dataclass(frozen=True, kw_only=True)
class EngineSidecar:
    """Everything that decides whether a plan may be loaded.

    Attributes:
        onnx_sha256: of the ONNX file's bytes that the plan was built from, or that it stands for in a bundle.
        plan_sha256: of the plan's bytes.
        flavour: ``tensorrt`` or ``tensorrt_rtx``; neither loads the other's plans.
        flavour_version: the library's version, such as ``10.3.0``.
        cuda_version: newest CUDA that the driver knew where it was built, such as ``13.0``; None without one.
        architectures: compute capabilities that it was built for, such as ``("9.0",)``; None: not known.
        hardware_compatible: it runs also on every architecture newer than the newest of these.
        version_compatible: it runs also on later versions of the same major version.
        batch: how many faces it takes at once.
        precision: what its convolutions compute in, one of ``PRECISIONS``; in ``int8`` the inner ones.
        build_s: seconds that TensorRT took.
    """

    onnx_sha256: str
    plan_sha256: str
    flavour: str
    flavour_version: str
    cuda_version: str | None
    architectures: tuple[str, ...] | None
    hardware_compatible: bool
    version_compatible: bool
    batch: BatchProfile
    precision: str
    build_s: float

    def to_json(self) -> str:
        """The sidecar as indented JSON with a stable order."""
        return _FORMAT.to_json(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> EngineSidecar:
        """Parses a sidecar, which may be edited by hand or hostile.

        Raises:
            BundleError: not JSON, another format or version, or a field that is missing, unknown or wrong.
        """
        return _FORMAT.parse(text, cls._of_fields)

    @classmethod
    def _of_fields(cls, raw: dict[str, Any]) -> EngineSidecar:
        check_fields(raw, _RULES)
        check_fields(raw["batch"], _BATCH, "batch.")
        raw["batch"] = BatchProfile(**raw["batch"])
        raw["architectures"] = raw["architectures"] and tuple(raw["architectures"])
        return cls(**raw)

    def check(
        self, plan: bytes, *, onnx_sha256: str | None, flavour: str, flavour_version: str, architecture: str
    ) -> None:
        """Refuses a plan that is not the described one, or that cannot run here.

        Args:
            plan: the plan's bytes.
            onnx_sha256: of the network that the plan is to stand for; None where there is no such file.
            flavour: the library that is to load it, ``tensorrt`` or ``tensorrt_rtx``.
            flavour_version: that library's version.
            architecture: the GPU's compute capability, such as ``9.0``. A plan whose architecture is not
                known passes; TensorRT itself refuses it if it is another one.

        Raises:
            BackendError: says what was expected, what was found, and how to build the plan again.
        """
        self._demand("the plan's SHA-256", self.plan_sha256, hashlib.sha256(plan).hexdigest())
        if onnx_sha256 is not None:
            self._demand("the SHA-256 of the plan's ONNX file", self.onnx_sha256, onnx_sha256)
        self._demand("the library that built the plan", self.flavour, flavour)
        if not self._runs_in(flavour_version):
            later = ", or a later one of the same major version" if self.version_compatible else ""
            raise BackendError(
                f"the plan needs {self.flavour} {self.flavour_version}{later}; "
                f"found {flavour_version}; {_REBUILD}"
            )
        if not self._runs_on(architecture):
            raise BackendError(
                f"the plan needs a GPU of compute capability {self.gpus()}; found {architecture}; {_REBUILD}"
            )

    def gpus(self) -> str:
        """The GPUs that it runs on, in words, such as ``8.0, 8.6 or newer than 8.6``."""
        if self.architectures is None:
            return "unknown"
        last = f" than {self.architectures[-1]}" if len(self.architectures) > 1 else ""
        return ", ".join(self.architectures) + (f" or newer{last}" if self.hardware_compatible else "")

    def _demand(self, what: str, expected: str, found: str) -> None:
        if found != expected:
            raise BackendError(f"{what} differs: expected {expected}, found {found}; {_REBUILD}")

    def _runs_in(self, version: str) -> bool:
        if version == self.flavour_version:
            return True
        built, here = _numbers(self.flavour_version), _numbers(version)
        return self.version_compatible and built[:1] == here[:1] and built <= here

    def _runs_on(self, architecture: str) -> bool:
        if self.architectures is None or architecture in self.architectures:
            return True
        return self.hardware_compatible and _numbers(architecture) > max(map(_numbers, self.architectures))


def sidecar_path(plan: Path) -> Path:
    """Where a plan's sidecar lies: ``protect.plan`` -> ``protect.plan.json``."""
    return plan.with_name(plan.name + SUFFIX)


def read_engine(plan: Path) -> tuple[bytes, EngineSidecar]:
    """Reads a plan and its sidecar. ``EngineSidecar.check`` compares the two when the plan is loaded.

    Raises:
        BundleError: one of the files cannot be read, or the sidecar cannot be understood.
    """
    try:
        text = sidecar_path(plan).read_bytes()
        return plan.read_bytes(), EngineSidecar.from_json(text)
    except OSError as error:
        raise BundleError(f"cannot read {error.filename}: {error.strerror or error}; {_REBUILD}") from error


def _numbers(version: str) -> tuple[int, ...]:
    """``10.3.0.post1`` -> ``(10, 3, 0)``."""
    match = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


def _is_version(value: Any) -> bool:
    return (
        is_text(value)
        and re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6}){1,4}[0-9A-Za-z.+-]{0,40}", value) is not None
    )


def _is_architecture(value: Any) -> bool:
    return is_text(value) and re.fullmatch(r"[0-9]{1,3}\.[0-9]", value) is not None


_VERSION_RULE: Rule = ("a version such as 10.3.0", _is_version)
_BATCH: dict[str, Rule] = dict.fromkeys(("min", "opt", "max"), whole(1, _MAX_BATCH))
_RULES: dict[str, Rule] = {
    "onnx_sha256": SHA256,
    "plan_sha256": SHA256,
    "flavour": (f"one of {', '.join(FLAVOURS)}", lambda v: is_text(v) and v in FLAVOURS),
    "flavour_version": _VERSION_RULE,
    "cuda_version": ("a version such as 13.0, or null", lambda v: v is None or _is_version(v)),
    "architectures": (
        "a list of compute capabilities such as 9.0, or null",
        lambda v: v is None or (is_list(v, _is_architecture) and v != []),
    ),
    "hardware_compatible": FLAG,
    "version_compatible": FLAG,
    "batch": ("a mapping of min, opt and max", lambda v: isinstance(v, dict) and v.keys() == _BATCH.keys()),
    "precision": (f"one of {', '.join(PRECISIONS)}", lambda v: is_text(v) and v in PRECISIONS),
    "build_s": ("a number of seconds", lambda v: is_number(v) and v >= 0),
}
