"""From a run of the anonymiser to its bundle: one network beside the detector, and no authority."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from runtime.geometry import CROP_TEMPLATE
from runtime.manifest import Manifest, System, open_bundle, sha256_of
from runtime.processor import processor_name

from .bundle import check_free, write_public_bundle
from .comparison import Comparing
from .errors import ExportError, PrecisionError
from .faces import PARITY_FACES, anonymise_inputs, load_faces, synthetic_faces
from .parity import in_torch
from .parity_report import LIBRARIES, ParityReport
from .parts import export_part, export_stages
from .precision import SPECS, Precision
from .recipe import BuildReport, sizes_in
from .run import MAX_BATCH, TERMS, AnonymiserRun, installed_version, load_anonymiser_run, training_record

SYSTEM: System = "anonymiser"
# Half precision would move the front-end's steps: the weights may be stored in it, nothing may compute in it.
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
LEFT_OUT = {"openvino-bf16": "bfloat16 moves the front-end's steps, and pixels beside one by a whole step"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AnonymiseRequest:
    """What to build, and from what.

    Attributes:
        run: a training run's folder.
        out: gets ``public/``, the bundle, and ``parity.json``.
        precision: of the networks, one of ``PRECISIONS``.
        faces: aligned faces for the comparison; None for synthetic pictures.
        name: of the bundle; None for the preset's.
        overwrite: replace the anonymiser's bundle in ``out``.
        unfinished: take the run even if its training is not over.
    """

    run: Path
    out: Path
    precision: Precision = "fp32"
    faces: Path | None = None
    name: str | None = None
    overwrite: bool = False
    unfinished: bool = False


def build_anonymiser(request: AnonymiseRequest) -> BuildReport:
    """Builds the bundle, or raises and writes nothing.

    Raises:
        ErasableMaskError: the run or the faces cannot be used, the network fails its gate or cannot have the
            precision, or ``out`` cannot be written or holds something else.
        CheckpointError: the run has no usable checkpoint, or is one of the mask.
    """
    precision = request.precision
    if precision not in PRECISIONS:
        raise PrecisionError(
            f"the anonymiser is exported in {' or '.join(PRECISIONS)}, found {precision}: its front-end "
            "computes in float32"
        )
    _check_out(request)
    run = load_anonymiser_run(request.run, unfinished=request.unfinished)
    part, network_config = run.part, run.config.network
    size_px = network_config.image_size
    faces = (
        synthetic_faces(PARITY_FACES, size_px)
        if request.faces is None
        else load_faces(request.faces, size_px, PARITY_FACES)
    )
    name = request.name or run.config.name
    manifest = _describe(run, name, precision)
    inputs = anonymise_inputs(faces, network_config.cells)
    logger.info("exporting %s", part.name)
    metadata = {"name": f"{name}/{part.name}", "version": installed_version(), "terms": manifest.terms}
    network = export_part(part, inputs, None, precision, metadata)
    detector, compared = export_stages(faces, precision)
    logger.info("comparing with the trained network")
    comparing = Comparing({part.name: in_torch(part.module)}, {part.name: inputs}, faces, None)
    gated, missing = comparing.everywhere({part.name: network.data}, precision, leave_out=LEFT_OUT)
    exported = {part.name: network, **detector}
    parity = ParityReport(
        bundle=name,
        precision=precision,
        models={name: sha256_of(network.data) for name, network in sorted(exported.items())},
        config_sha256=manifest.training["config_sha256"],
        faces=f"{len(faces)} {f'faces of {request.faces.name}' if request.faces else 'synthetic pictures'}",
        comparisons=(*gated, *compared),
        missing=missing,
        not_measured="that gate knows the mask alone",
        processor=processor_name(),
        versions={library: installed_version(library) for library in LIBRARIES},
    )
    write_public_bundle(request.out, manifest, exported, parity=parity)
    return BuildReport(parity=parity, sizes=sizes_in(request.out), engines={}, new_key=None)


def _check_out(request: AnonymiseRequest) -> None:
    check_free(request.out, overwrite=request.overwrite, roles=("public",))
    if request.out.exists() and open_bundle(request.out / "public").manifest.system != SYSTEM:
        raise ExportError(
            f"{request.out} is not overwritten, for it holds a bundle of the mask; choose another --out"
        )


def _describe(run: AnonymiserRun, name: str, precision: Precision) -> Manifest:
    config = run.config
    return Manifest(
        system=SYSTEM,
        role="public",
        name=name,
        image_size=config.network.image_size,
        crop_template=tuple((float(x), float(y)) for x, y in CROP_TEMPLATE),
        attributes=(),
        strength=config.settings.strength,
        injection=0.0,
        max_batch=MAX_BATCH,
        precision=precision,
        opset=SPECS[precision].opset,
        target="",
        terms=TERMS,
        training={**training_record(config, run.about), "stochastic": config.network.stochastic},
    )
