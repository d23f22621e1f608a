"""The record of an export's comparisons, ``parity.json`` beside the bundles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime.errors import BundleError
from runtime.manifest import Bundle, sha256_of
from runtime.manifest_checks import Rule, check_fields, is_list, is_number, is_text, whole
from runtime.versioned_json import FileFormat

if TYPE_CHECKING:  # reading a record needs no PyTorch
    from .precision import Precision

PARITY_NAME = "parity.json"

# What decides the numbers.
LIBRARIES = ("erasablemask", "numpy", "onnx", "onnxruntime", "openvino", "torch")

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
        ssim: least structural similarity of the two protected pictures of a face whose attributes agree; NaN
            where none do.
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
        models: SHA-256 of every network's file, of the restorer's before it is sealed.
        config_sha256: of the training run's configuration.
        faces: on what they were compared, in words.
        comparisons: all of them; every one passed its gate.
        missing: backends that the precision is compared in where they work, each with the reason.
        not_measured: why no recogniser looked at the faces; empty if one did.
        processor: its name.
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
    processor: str
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
    manifest = public.manifest
    found = {name: sha256_of(public.read(name)) for name in manifest.models}
    path = public.folder.parent / PARITY_NAME
    try:
        report = ParityReport.from_json(path.read_bytes())
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror or error}; {_FORMAT.remedy}") from error
    told = {name: report.models.get(name) for name in manifest.models}
    if (told, report.bundle, report.precision, report.config_sha256) != (
        found,
        manifest.name,
        manifest.precision,
        manifest.training.get("config_sha256"),
    ):
        raise BundleError(f"expected {path} to tell of the bundle beside it, found another; {_FORMAT.remedy}")
    return report


def _report(raw: dict[str, Any]) -> ParityReport:
    check_fields(raw, _REPORT)
    return ParityReport(**{**raw, "comparisons": tuple(map(_comparison, raw["comparisons"]))})


def _comparison(raw: dict[str, Any]) -> Comparison:
    check_fields(raw, _COMPARISON)
    networks, task = tuple(map(_parity, raw["networks"])), raw["task"]
    return Comparison(**{**raw, "networks": networks, "task": None if task is None else _task(task)})


def _parity(raw: dict[str, Any]) -> Parity:
    check_fields(raw, _PARITY)
    return Parity(**raw)


def _task(raw: dict[str, Any]) -> TaskParity:
    check_fields(raw, _TASK)
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in raw.items()}
    return TaskParity(**fields)


def _or_null(rule: Rule) -> Rule:
    expected, holds = rule
    return f"{expected}, or null", lambda v: v is None or holds(v)


_TEXT: Rule = ("text", is_text)
_TEXTS: Rule = (
    "a mapping of texts",
    lambda v: isinstance(v, dict) and all(is_text(value) for value in v.values()),
)
_OBJECTS: Rule = (
    "a list of objects, not empty",
    lambda v: is_list(v, lambda o: isinstance(o, dict)) and v != [],
)
_COUNT = whole(1, 2**31)
_AMOUNT: Rule = ("a number from 0 up", lambda v: is_number(v) and v >= 0)
_SHARE: Rule = ("a number from 0 to 1", lambda v: is_number(v) and 0 <= v <= 1)
_PAIR: Rule = ("two numbers from 0 up", lambda v: is_list(v, _AMOUNT[1]) and len(v) == 2)

_REPORT: dict[str, Rule] = {
    **dict.fromkeys(("bundle", "precision", "config_sha256", "faces", "not_measured", "processor"), _TEXT),
    **dict.fromkeys(("models", "missing", "versions"), _TEXTS),
    "comparisons": _OBJECTS,
}
_COMPARISON: dict[str, Rule] = {
    "program": _TEXT,
    "bounds": _TEXT,
    "networks": _OBJECTS,
    "task": ("an object, or null", lambda v: v is None or isinstance(v, dict)),
}
_PARITY: dict[str, Rule] = {
    "network": _TEXT,
    "faces": _COUNT,
    **dict.fromkeys(("max", "mean", "p999"), _AMOUNT),
    "within_one": _or_null(_SHARE),
}
_TASK: dict[str, Rule] = {
    "recognizer": _TEXT,
    "faces": _COUNT,
    **dict.fromkeys(("own_drift", "restored_drift"), _AMOUNT),
    "target_drift": _or_null(_AMOUNT),
    **dict.fromkeys(("asr", "esr", "flips"), _or_null(_PAIR)),
    "kept_attributes": _SHARE,
    "ssim": ("a number up to 1", lambda v: is_number(v) and v <= 1),
}
