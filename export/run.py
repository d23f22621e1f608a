"""What an export takes from a training run: the networks to export and what the manifest says of them."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from runtime.geometry import CROP_TEMPLATE
from runtime.manifest import Manifest
from training.checkpoint import CHECKPOINT_NAME, CheckpointError, load_anonymiser, load_networks
from training.config import AnonymiserConfig, RunConfig, SharedConfig

from .errors import ExportError
from .precision import SPECS, Precision
from .wrappers import AnonymiseExport, AttributesExport, ProtectExport, RestoreExport

MAX_BATCH = 64
FINISHED = "done"

TERMS = (
    "For non-commercial research only: these weights were trained on CelebA, whose terms allow nothing else. "
    "No protection against an adaptive attacker is promised."
)

Embeddings = dict[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One network to export.

    Attributes:
        name: in the manifest.
        module: for the export.
        output: its name.
        in_float32: computed in less it would be another network.
    """

    name: str
    module: nn.Module
    output: str
    in_float32: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A run's networks, wrapped for export, and its description.

    Attributes:
        config: the run's configuration.
        parts: ``protect``, ``attributes`` and ``restore``, in evaluation mode.
        attributes: names in the order of the attribute vector.
        about: commits, data, surrogates, target, stage, steps and so on.
    """

    config: RunConfig
    parts: tuple[Part, ...]
    attributes: tuple[str, ...]
    about: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class AnonymiserRun:
    """As ``TrainedRun``, of the anonymiser: it has the one network, and no attributes."""

    config: AnonymiserConfig
    part: Part
    about: dict[str, Any]


def load_anonymiser_run(folder: Path, *, unfinished: bool = False) -> AnonymiserRun:
    """Reads a run's averaged network.

    Args:
        folder, unfinished: as of ``load_run``.

    Raises:
        CheckpointError: there is no checkpoint, it is damaged, or one of the mask.
        ExportError: training is not over, and ``unfinished`` is not given.
    """
    config, networks, about = load_anonymiser(folder)
    check_finished(folder, about, unfinished=unfinished)
    module = AnonymiseExport(networks.anonymiser).eval()
    part = Part(name="anonymise", module=module, output="anonymised", in_float32=True)
    return AnonymiserRun(config=config, part=part, about=about)


def load_run(folder: Path, *, unfinished: bool = False) -> TrainedRun:
    """Reads a run's averaged networks.

    Args:
        folder: the run's.
        unfinished: take a run whose training is not over as it is; for smoke runs.

    Raises:
        CheckpointError: there is no checkpoint, it is damaged, or it does not name its attributes and target.
        ExportError: training is not over, and ``unfinished`` is not given.
    """
    config, generator, restorer, discriminator, about = load_networks(folder)
    for field in ("attributes", "target"):
        if not about.get(field):
            raise CheckpointError(
                f"{folder / CHECKPOINT_NAME} does not say its {field} (about[{field!r}]), which the manifest "
                "needs; resume the run with this version: python -m training ..."
            )
    if len(about["attributes"]) != config.network.n_attributes:
        raise CheckpointError(
            f"{folder / CHECKPOINT_NAME} names {len(about['attributes'])} attributes, "
            f"its networks know {config.network.n_attributes}"
        )
    check_finished(folder, about, unfinished=unfinished)
    return TrainedRun(
        config=config,
        parts=(
            Part(name="protect", module=ProtectExport(generator).eval(), output="protected"),
            Part(name="attributes", module=AttributesExport(discriminator).eval(), output="probabilities"),
            Part(name="restore", module=RestoreExport(restorer).eval(), output="restored"),
        ),
        attributes=tuple(about["attributes"]),
        about=about,
    )


def check_finished(folder: Path, about: Mapping[str, Any], *, unfinished: bool) -> None:
    """Refuses a run whose training is not over, unless that is asked for.

    Raises:
        ExportError: it is refused.
    """
    stage = about.get("stage", "unknown")
    if stage != FINISHED and not unfinished:
        raise ExportError(
            f"expected a finished run in {folder}, found it in the stage {stage!r}; let it train on (rerun "
            "python -m training with the same options), or add --unfinished if it is only a smoke run"
        )


def training_record(config: SharedConfig, about: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says of the training run: what it was given, and the hash of its configuration."""
    configuration = json.dumps(dataclasses.asdict(config), sort_keys=True)
    told = {key: value for key, value in about.items() if key != "attributes"}
    return {**told, "config_sha256": hashlib.sha256(configuration.encode()).hexdigest()}


def describe(
    run: TrainedRun, *, name: str, precision: Precision, demo: bool, target_embeddings: Embeddings
) -> Manifest:
    """What the two bundles' manifests have in common; role and models come with the files."""
    settings = run.config.attack_settings
    training = training_record(run.config, run.about)
    if target_embeddings:
        training["target_embeddings"] = target_embeddings
    return Manifest(
        role="public",
        name=name,
        image_size=run.config.network.image_size,
        crop_template=tuple((float(x), float(y)) for x, y in CROP_TEMPLATE),
        attributes=run.attributes,
        strength=settings.strength,
        injection=settings.injection,
        max_batch=MAX_BATCH,
        precision=precision,
        opset=SPECS[precision].opset,
        target=run.about["target"],
        terms=TERMS,
        demo=demo,
        training=training,
    )


def read_target_embeddings(path: Path) -> Embeddings:
    """The target's embeddings by recogniser, a JSON object such as ``{"sface": [0.1, ...]}``.

    Raises:
        ExportError: it cannot be read, or is something else.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"cannot read the target's embeddings from {path}: {error}") from error
    if not isinstance(raw, Mapping) or not raw or not all(map(_is_embedding, raw.values())):
        raise ExportError(f'expected lists of numbers by recogniser, like {{"sface": [0.1, ...]}}, in {path}')
    return {str(name): [float(value) for value in values] for name, values in raw.items()}


def installed_version(distribution: str = "erasablemask") -> str:
    """Version of an installed distribution, or ``unknown``, as of this one in a bare checkout."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _is_embedding(values: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) > 1
        and all(isinstance(v, int | float) and math.isfinite(v) for v in values)
        and any(values)
    )
