"""The record of an export's comparisons, ``parity.json`` beside the bundles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime.errors import BundleError
from runtime.manifest import Bundle, sha256_of
from runtime.versioned_json import FileFormat

if TYPE_CHECKING:  # reading a record needs no PyTorch
    from .precision import Precision

PARITY_NAME = "parity.json"

# What decides the numbers.
LIBRARIES = ("numpy", "onnx", "onnxruntime", "openvino", "torch")

_FORMAT = FileFormat(
    name="erasablemask-parity",
    version=1,
    called=PARITY_NAME,
    remedy="export the run again: python -m export.build --run ...",
)


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far an exported network is from the trained one.

    Attributes:
        network: its name.
        faces: how many were compared.
        max, mean, p999: absolute difference, at most, on average, and its 99.9th percentile; in levels of
            uint8 for pictures, else in the output's own unit.
        within_one: share of uint8 values that differ by at most one level; None for other outputs.
    """

    network: str
    faces: int
    max: float
    mean: float
    p999: float
    within_one: float | None


@dataclass(frozen=True, kw_only=True)
class TaskParity:
    """How far the exported networks do their work differently, over some faces.

    Attributes:
        recognizer: what embedded the faces.
        faces: how many.
        target_drift: largest change of a protected face's cosine to the target; None without a target.
        own_drift: largest change of a protected face's cosine to the face it was.
        restored_drift: largest change of a restored face's cosine to the face it was.
        asr: share of protected faces that pass for the target (Eq. 17) at FAR 0.01, trained and exported;
            None without a target.
        esr: share of restored faces that do not (Eq. 18), at the same threshold, likewise.
        flips: protected faces, and restored ones, whose verdict the two give differently; None likewise.
        kept_attributes: share of attributes on whose side of 0.5 both agree.
        ssim: least structural similarity of the two protected pictures of a face.
    """

    recognizer: str
    faces: int
    target_drift: float | None
    own_drift: float
    restored_drift: float
    asr: tuple[float, float] | None
    esr: tuple[float, float] | None
    flips: tuple[int, int] | None
    kept_attributes: float
    ssim: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The exported networks beside those they were made from, in one program.

    Attributes:
        program: what ran them, such as ``ort-cpu``.
        bounds: the precision whose bounds they keep.
        networks: how far each is off.
        task: the same in what a recogniser sees; None if that was not measured.
    """

    program: str
    bounds: Precision
    networks: tuple[Parity, ...]
    task: TaskParity | None = None


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """What was compared when a bundle was exported.

    Attributes:
        bundle: its name.
        precision: of its networks.
        models: SHA-256 of the public bundle's files, by network.
        config_sha256: of the training run's configuration.
        faces: on what they were compared, in words.
        comparisons: all of them; every one passed its gate.
        missing: backends that the precision is compared in where they are there, each with the reason.
        not_measured: why no recogniser looked at the faces; empty if one did.
        versions: of the libraries.
    """

    bundle: str
    precision: Precision
    models: dict[str, str]
    config_sha256: str
    faces: str
    comparisons: tuple[Comparison, ...]
    missing: dict[str, str]
    not_measured: str
    versions: dict[str, str]

    def to_json(self) -> str:
        """The report as indented JSON with a stable order."""
        return _FORMAT.to_json(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> ParityReport:
        """Reads a report back.

        Raises:
            BundleError: not JSON, another format or version, or a field that is missing or unknown.
        """
        return _FORMAT.parse(text, _report)


def read_report(public: Bundle) -> ParityReport:
    """The report beside a public bundle.

    Raises:
        BundleError: it is missing or malformed, or tells of other networks than the bundle's.
    """
    found = {name: sha256_of(public.read(name)) for name in public.manifest.models}
    path = public.folder.parent / PARITY_NAME
    try:
        report = ParityReport.from_json(path.read_bytes())
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror or error}; {_FORMAT.remedy}") from error
    if report.models != found:
        raise BundleError(
            f"expected {path} to tell of the bundle's networks, found other hashes; {_FORMAT.remedy}"
        )
    return report


def _report(raw: dict[str, Any]) -> ParityReport:
    return ParityReport(**{**raw, "comparisons": _each(_comparison, raw["comparisons"])})


def _comparison(raw: dict[str, Any]) -> Comparison:
    task = raw["task"]
    return Comparison(
        **{
            **raw,
            "networks": _each(lambda fields: Parity(**fields), raw["networks"]),
            "task": task and TaskParity(**{name: _pair(value) for name, value in task.items()}),
        }
    )


def _each(make: Callable[[dict[str, Any]], Any], raw: list[dict[str, Any]]) -> tuple[Any, ...]:
    return tuple(make(fields) for fields in raw)


def _pair(value: Any) -> Any:
    """JSON has no tuples."""
    return tuple(value) if isinstance(value, list) else value
