"""From the bytes of an ONNX file to a TensorRT plan, with one code path for TensorRT 10, 11 and RTX.

Networks are strongly typed: 11 knows no others, 10 has a flag for it. TensorRT then computes in the types of
the ONNX graph, so the precision is decided there and only verified here.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from runtime.engine_sidecar import PRECISIONS, BatchProfile, EngineSidecar, sidecar_path
from runtime.tensorrt_library import in_words, library_log, load_tensorrt

from .engine_precision import check_network_precision
from .errors import ExportError, PrecisionError
from .gpu import Gpu, find_gpu
from .timing_cache import attach_timing_cache, save_timing_cache, timing_cache_path

logger = logging.getLogger(__name__)

# The target that means "this architecture and every newer one".
AMPERE_PLUS = "8.0+"
_ADVICE = "export the network again, in another precision if it stays, or update the library"
# Where a plan of TensorRT-RTX runs if no target is named, and on newer ones: its manual, "CPU-Only AOT".
_RTX_ARCHITECTURES = ("8.0", "8.6", "8.9", "12.0")


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How to build.

    Attributes:
        flavour: the library, ``tensorrt`` (builds on the GPU that it builds for) or ``tensorrt_rtx`` (builds
            on any machine; its plans are finished on the GPU, when they are loaded).
        batch: how many faces the plan takes at once.
        target_gpu: compute capabilities. None named: this machine's with ``tensorrt``; with ``tensorrt_rtx``
            8.0, 8.6, 8.9, 12.0 and what is newer than 12.0, and so not 9.0 nor 10.0. ``("8.0+",)``: all since
            Ampere with ``tensorrt``, slower; the same as none with ``tensorrt_rtx``. Others, such as
            ``("8.9", "12.0")``: with ``tensorrt_rtx`` only.
        version_compatible: also for later versions of the same major version, with ``tensorrt`` only. Such a
            plan carries code for the processor, and is loaded only where that is allowed.
        workspace_bytes: largest scratch memory of a layer; None: all of the GPU's.
        timing_cache: a folder for what is measured, with ``tensorrt`` only; None: measured and forgotten.

    Raises:
        ValueError: ``workspace_bytes`` is not positive.
    """

    flavour: str = "tensorrt"
    batch: BatchProfile = field(default_factory=BatchProfile)
    target_gpu: tuple[str, ...] = ()
    version_compatible: bool = False
    workspace_bytes: int | None = None
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise ValueError(f"workspace_bytes must be at least 1, or None, found {self.workspace_bytes}")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A built plan and its description.

    Attributes:
        plan: its bytes.
        sidecar: the description.
    """

    plan: bytes = field(repr=False)
    sidecar: EngineSidecar


def build_engine(
    model: bytes, *, precision: str, options: EngineOptions | None = None, source: bytes | None = None
) -> Engine:
    """Builds a plan in memory; nothing but the timing cache reaches the disk.

    Args:
        model: an ONNX file's bytes, the first axis of every input being the batch.
        precision: what the convolutions must compute in, ``fp32``, ``fp16``, ``bf16`` or, but for those that
            read or write a picture, ``int8``. Weights that are only stored in float16 are computed with in
            ``fp32``.
        options: default: ``EngineOptions()``.
        source: the bundle's file of this network, if ``model`` was made from it: the plan stands for that.

    Raises:
        MissingExtraError, BackendError: the library is not installed or cannot be loaded.
        PrecisionError: a convolution would compute in another precision.
        ExportError: an option is not available, the ONNX cannot be parsed, or TensorRT cannot build it.
    """
    options = options or EngineOptions()
    if precision not in PRECISIONS:
        raise PrecisionError(f"unknown precision {precision!r} of an engine; known: {', '.join(PRECISIONS)}")
    trt = load_tensorrt(options.flavour)
    gpu = find_gpu()
    check_available(trt, options)
    log = library_log(trt)
    with log.listening() as errors:
        builder = _create_builder(trt, log, errors)
        network = builder.create_network(_strongly_typed(trt))
        parser = trt.OnnxParser(network, log)  # owns the weights until the plan is built
        _parse(parser, network, model)
        check_network_precision(trt, network, precision, model)
        config = builder.create_builder_config()
        _configure(trt, config, options)
        _add_profile(builder, config, network, options.batch)
        cache = _cache_path(trt, options, gpu)
        if cache is not None:
            attach_timing_cache(config, cache)
        start_s = time.perf_counter()
        plan = builder.build_serialized_network(network, config)
        build_s = time.perf_counter() - start_s
        if plan is None:
            raise ExportError(f"{_called(trt)} cannot build the engine: {in_words(errors)}; {_ADVICE}")
    if cache is not None:
        save_timing_cache(config, cache)
    data = bytes(plan)
    logger.info("built a plan of %d bytes with %s in %.1f s", len(data), _called(trt), build_s)
    architectures, newer = _architectures(options, gpu)
    sidecar = EngineSidecar(
        onnx_sha256=hashlib.sha256(model if source is None else source).hexdigest(),
        plan_sha256=hashlib.sha256(data).hexdigest(),
        flavour=options.flavour,
        flavour_version=trt.__version__,
        cuda_version=gpu.cuda_version if gpu else None,
        architectures=architectures,
        hardware_compatible=newer,
        version_compatible=options.version_compatible,
        batch=options.batch,
        precision=precision,
        build_s=round(build_s, 3),
    )
    return Engine(plan=data, sidecar=sidecar)


def write_engine(path: Path, engine: Engine) -> None:
    """Writes a plan and its sidecar, each whole or not at all, the sidecar last.

    For public networks only: a plan holds the weights, and nothing here seals it. The restorer's plan must
    stay in memory.

    Raises:
        ExportError: a file cannot be written; what was there before is kept, or refused by its hash.
    """
    mark = f".{uuid.uuid4().hex[:8]}.partial"
    sidecar = sidecar_path(path)
    partial_plan, partial_sidecar = (p.with_name(f".{p.name}{mark}") for p in (path, sidecar))
    try:
        partial_plan.write_bytes(engine.plan)
        partial_sidecar.write_text(engine.sidecar.to_json() + "\n", encoding="utf-8")
        os.replace(partial_plan, path)
        os.replace(partial_sidecar, sidecar)
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        for partial in (partial_plan, partial_sidecar):
            with suppress(OSError):
                partial.unlink()


def check_available(trt: ModuleType, options: EngineOptions) -> None:
    """Refuses what a flavour does not have.

    Raises:
        ExportError: one of the options.
    """
    rtx = options.flavour == "tensorrt_rtx"
    if rtx and options.version_compatible:
        raise ExportError(
            "TensorRT-RTX has no plans for other versions than its own; build without version_compatible, or "
            "with the flavour tensorrt"
        )
    if rtx and options.timing_cache is not None:
        raise ExportError(
            "TensorRT-RTX measures nothing when it builds; build without a timing cache, or with the flavour "
            "tensorrt"
        )
    if options.target_gpu in ((), (AMPERE_PLUS,)):
        return
    known = _capabilities(trt) if rtx else {}
    unknown = [target for target in options.target_gpu if target not in known]
    if unknown or len(set(options.target_gpu)) < len(options.target_gpu):
        raise ExportError(
            f"{_called(trt)} cannot build for the GPU {', '.join(options.target_gpu)}; available, each once: "
            f"{', '.join(known) or 'none named, for the GPU of this machine'}, or {AMPERE_PLUS} alone"
            f"{'; other GPUs, those of data centres, need the flavour tensorrt' if rtx else ''}"
        )


def _capabilities(trt: ModuleType) -> dict[str, Any]:
    """``8.9`` -> ``trt.ComputeCapability.SM89``, and so on."""
    members = trt.ComputeCapability.__members__.items()
    return {f"{name[2:-1]}.{name[-1]}": value for name, value in members if name.startswith("SM")}


def _create_builder(trt: ModuleType, log: Any, errors: list[str]) -> Any:
    try:
        return trt.Builder(log)
    except (TypeError, RuntimeError) as error:  # a null pointer in C++ is a TypeError of the bindings
        raise ExportError(
            f"{_called(trt)} cannot start: {in_words(errors)}; tensorrt builds only on a machine with an "
            "NVIDIA GPU and its driver, tensorrt_rtx on any"
        ) from error


def _strongly_typed(trt: ModuleType) -> int:
    """The network's flags: TensorRT 10 must be asked for what later ones always do."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parse(parser: Any, network: Any, model: bytes) -> None:
    if not parser.parse(model):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        told = "; ".join(f"{_place(error)}{error.desc()}" for error in errors)
        raise ExportError(f"TensorRT cannot parse the ONNX file: {told or 'it gave no reason'}; {_ADVICE}")
    if network.num_outputs == 0:
        raise ExportError(
            "TensorRT found no outputs in the ONNX file, which is empty or cut short; get it again"
        )


def _place(error: Any) -> str:
    if not error.node_operator():
        return ""
    return f"node {error.node()} ({error.node_operator()} {error.node_name()!r}): "


def _configure(trt: ModuleType, config: Any, options: EngineOptions) -> None:
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.flavour == "tensorrt":
        if options.target_gpu == (AMPERE_PLUS,):
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    elif options.target_gpu not in ((), (AMPERE_PLUS,)):
        capabilities = _capabilities(trt)
        config.num_compute_capabilities = len(options.target_gpu)
        for index, target in enumerate(options.target_gpu):
            if not config.set_compute_capability(capabilities[target], index):
                raise ExportError(f"{_called(trt)} refuses the target {target}; leave it out")


def _add_profile(builder: Any, config: Any, network: Any, batch: BatchProfile) -> None:
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        free, *rest = tuple(tensor.shape) or (0,)
        if free != -1 or -1 in rest:
            raise ExportError(
                f"the input {tensor.name!r} must be of any batch and else of fixed shape, (-1, ...), "
                f"found {tuple(tensor.shape)}; export the network again with this version"
            )
        profile.set_shape(tensor.name, *((n, *rest) for n in (batch.min, batch.opt, batch.max)))
    if config.add_optimization_profile(profile) < 0:
        raise ExportError(f"TensorRT refuses the batch profile {batch}; choose smaller batches")


def _cache_path(trt: ModuleType, options: EngineOptions, gpu: Gpu | None) -> Path | None:
    if options.timing_cache is None:
        return None
    if gpu is None:
        raise ExportError(
            "a timing cache belongs to one GPU, and NVIDIA's driver shows none; build without a timing cache"
        )
    return timing_cache_path(options.timing_cache, gpu, trt.__version__)


def _architectures(options: EngineOptions, gpu: Gpu | None) -> tuple[tuple[str, ...] | None, bool]:
    """What a plan was built for, and whether it runs on newer architectures too."""
    if options.flavour == "tensorrt_rtx" and options.target_gpu in ((), (AMPERE_PLUS,)):
        return _RTX_ARCHITECTURES, True
    if options.target_gpu == (AMPERE_PLUS,):
        return (AMPERE_PLUS.removesuffix("+"),), True
    return options.target_gpu or ((gpu.architecture,) if gpu else None), False


def _called(trt: ModuleType) -> str:
    return f"{trt.__name__} {trt.__version__}"
