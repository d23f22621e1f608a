"""The steps of an export in their order: run, rewrite, graph, precision, parity, bundles."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.authority import generate_key, read_key_file
from runtime.errors import RecognizerError
from runtime.manifest import Manifest, sha256_of
from runtime.processor import processor_name
from runtime.recognizers import EMBEDDING_DIM, find, load

from .bundle import RESTORE, Networks, check_free, write_bundles
from .comparison import Comparing, Witness
from .engine import Engine, EngineOptions
from .engines import PLAN_GATE, build_engines, check_engines, plan_graphs
from .errors import ExportError
from .faces import PARITY_FACES, FacesU8, inputs_of, load_faces, synthetic_faces
from .parity import in_torch
from .parity_report import LIBRARIES, ParityReport
from .parts import export_part, export_stages
from .precision import SPECS, Precision
from .run import (
    Embeddings,
    describe,
    installed_version,
    load_run,
    read_target_embeddings,
)

CALIBRATION_FACES = 128

# In the report: ``restore`` has no plan, and is the bundle's.
PLAN_PROGRAM = "ort-cpu, the graphs of the plans"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What to build, and from what.

    Attributes:
        run: a training run's folder.
        unfinished: take the run even if its training is not over.
        out: folder of the two bundles.
        precision: of the networks.
        key: an existing key file that seals the restorer; without one a new key is made.
        new_key: where to write the new key; if neither ``key`` nor ``demo`` is given either, beside ``out``
            as ``<out name>.key``.
        demo: write the new key into the authority's bundle, for everybody.
        faces: aligned faces for the comparison; None for synthetic pictures.
        target_embedding: JSON file of the target's embeddings by recogniser.
        name: of the bundle; None for the preset's.
        overwrite: replace the bundles in ``out``.
        engines: how to build TensorRT plans; None for none.
    """

    run: Path
    out: Path
    precision: Precision = "fp32"
    key: Path | None = None
    new_key: Path | None = None
    demo: bool = False
    faces: Path | None = None
    target_embedding: Path | None = None
    name: str | None = None
    overwrite: bool = False
    unfinished: bool = False
    engines: EngineOptions | None = None

    def __post_init__(self) -> None:
        if [self.key is not None, self.new_key is not None, self.demo].count(True) > 1:
            raise ValueError("expected at most one of --key, --new-key and --demo, to seal the restorer")

    @property
    def new_key_path(self) -> Path | None:
        """Where the new key goes for the authority alone; None with ``key`` and ``demo``."""
        if self.key is not None or self.demo:
            return None
        out = self.out.resolve()  # "." has a name, too
        return self.new_key or out.with_name(f"{out.name}.key")


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What was built.

    Attributes:
        parity: every comparison with the trained networks, also written to ``parity.json``.
        sizes: bytes of every file, by its path under ``out``.
        engines: the TensorRT plans that were built, by network.
        new_key: the file with the new key; None if the key is not new, or published.
    """

    parity: ParityReport
    sizes: dict[str, int]
    engines: dict[str, Engine]
    new_key: Path | None


def build(request: BuildRequest) -> BuildReport:
    """Builds both bundles, or raises and writes nothing.

    Raises:
        ErasableMaskError: the run, a key or the faces cannot be used, a network fails its gate or lacks its
            precision, or ``out`` cannot be written.
        CheckpointError: the run has no usable checkpoint.
    """
    check_free(request.out, overwrite=request.overwrite)
    if request.engines is not None:
        check_engines(request.precision, request.engines)
    new_key = request.new_key_path
    if new_key is not None:
        _check_new_key(new_key, request.out)
    key = generate_key() if request.key is None else read_key_file(request.key)
    run = load_run(request.run, unfinished=request.unfinished)
    embeddings = read_target_embeddings(request.target_embedding) if request.target_embedding else {}
    name = request.name or run.config.name
    manifest = describe(
        run, name=name, precision=request.precision, demo=request.demo, target_embeddings=embeddings
    )
    faces, calibration = _faces(request, manifest.image_size)
    named = {"version": installed_version(), "terms": manifest.terms}
    n_attributes = len(run.attributes)
    inputs = {part.name: inputs_of(part.name, faces, n_attributes) for part in run.parts}
    exported = {}
    for part in run.parts:
        logger.info("exporting %s", part.name)
        about = {"name": f"{name}/{part.name}", **named}
        quantizing = None if calibration is None else inputs_of(part.name, calibration, n_attributes)
        exported[part.name] = export_part(part, inputs[part.name], quantizing, request.precision, about)
    detector, comparisons = export_stages(faces, request.precision)
    logger.info("comparing with the trained networks")
    witness, not_measured = _witness(request, manifest, faces, embeddings)
    comparing = Comparing({part.name: in_torch(part.module) for part in run.parts}, inputs, faces, witness)
    data = {name: network.data for name, network in exported.items()}
    gated, missing = comparing.everywhere(data, request.precision)
    restore = exported.pop(RESTORE)
    networks = Networks(public=exported, detector=detector, restore=restore)
    engines = {}
    if request.engines is not None:
        models = {name: data[name] for name in exported}
        graphs = plan_graphs(models, request.precision)
        if graphs != models:
            gated.append(comparing.within({**data, **graphs}, PLAN_GATE, program=PLAN_PROGRAM))
        engines = build_engines(
            models,
            graphs,
            precision=request.precision,
            max_batch=manifest.max_batch,
            options=request.engines,
        )
    parity = ParityReport(
        bundle=name,
        precision=request.precision,
        models={
            name: sha256_of(network.data)
            for name, network in sorted({**exported, **detector, RESTORE: restore}.items())
        },
        config_sha256=manifest.training["config_sha256"],
        faces=f"{len(faces)} {f'faces of {request.faces.name}' if request.faces else 'synthetic pictures'}",
        comparisons=(*gated, *comparisons),
        missing=missing,
        not_measured=not_measured,
        processor=processor_name(),
        versions={name: installed_version(name) for name in LIBRARIES},
    )
    write_bundles(request.out, manifest, networks, key, new_key=new_key, engines=engines, parity=parity)
    return BuildReport(parity=parity, engines=engines, sizes=sizes_in(request.out), new_key=new_key)


def sizes_in(folder: Path) -> dict[str, int]:
    """Bytes of every file, by its path under a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def _witness(
    request: BuildRequest, manifest: Manifest, faces: FacesU8, embeddings: Embeddings
) -> tuple[Witness | None, str]:
    """Who looks at the faces in the gate in the task's units, or why nobody does."""
    if request.faces is None:
        return None, "synthetic pictures have no identity; name real faces with --faces"
    if len(faces) < PARITY_FACES:
        return None, f"that takes {PARITY_FACES} faces, found {len(faces)}"
    try:
        path = find()
    except RecognizerError as error:
        return None, str(error)
    recognizer = load(path)  # a file that was changed ends the build
    target = embeddings.get("sface")
    if target is not None and len(target) != EMBEDDING_DIM:
        raise ExportError(
            f"expected {EMBEDDING_DIM} numbers of the target for sface, found {len(target)}; embed the "
            "target's photo with SFace, or leave --target-embedding out"
        )
    return Witness(
        recognizer=recognizer,
        strength=manifest.strength,
        injection=manifest.injection,
        target=None if target is None else np.array(target, np.float32),
    ), ""


def _faces(request: BuildRequest, size_px: int) -> tuple[FacesU8, FacesU8 | None]:
    """The faces of the comparison, and for int8 others that set the ranges."""
    if SPECS[request.precision].activations is None:
        if request.faces is None:
            return synthetic_faces(PARITY_FACES, size_px), None
        return load_faces(request.faces, size_px, PARITY_FACES), None
    if request.faces is None:
        raise ExportError(
            f"{request.precision} needs the ranges that values have on real faces; name some with --faces"
        )
    wanted = PARITY_FACES + CALIBRATION_FACES
    faces = load_faces(request.faces, size_px, wanted)
    if len(faces) < wanted:
        raise ExportError(
            f"{request.precision} needs {wanted} faces, {CALIBRATION_FACES} for the ranges and "
            f"{PARITY_FACES} others for the comparison; found {len(faces)} in {request.faces}"
        )
    compared = np.arange(wanted) % (wanted // PARITY_FACES) == 0
    compared[np.flatnonzero(compared)[PARITY_FACES:]] = False
    return faces[compared], faces[~compared]


def _check_new_key(new_key: Path, out: Path) -> None:
    """A key in the folder of what it seals would be shipped with it, and a key that exists is kept."""
    if new_key.resolve().is_relative_to(out.resolve()):
        raise ExportError(f"--new-key must lie outside of --out, found {new_key}")
    if new_key.exists():
        raise ExportError(
            f"{new_key} exists and is kept; use it with --key, or name another file with --new-key"
        )
