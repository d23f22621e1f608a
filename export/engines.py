"""TensorRT plans of a bundle's public networks, each from the network's own file in the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx
from google.protobuf.message import DecodeError

from runtime.engine_sidecar import BatchProfile
from runtime.tensorrt_library import load_tensorrt

from .engine import Engine, EngineOptions, build_engine, check_available
from .errors import ExportError
from .mixed import to_fp16
from .precision import widen

# What a plan computes in, by the precision of the bundle. A bundle that is stored in float16 computes in
# float32 on a CPU; on a GPU float16 is what storing it promises.
COMPUTED = {"fp32": "fp32", "fp16": "fp16", "fp16-mixed": "fp16", "bf16-mixed": "bf16", "int8-gpu": "int8"}


def check_engines(precision: str, options: EngineOptions) -> None:
    """Refuses, before any work, what cannot be built.

    Raises:
        ExportError: there are no plans in the precision, or the library has no such option.
        MissingExtraError, BackendError: the library is not installed or cannot be loaded.
    """
    if precision not in COMPUTED:
        raise ExportError(
            f"TensorRT plans are built of bundles in {', '.join(COMPUTED)}, found {precision}: TensorRT "
            "takes int8 only around zero; for it, export with --precision int8-gpu"
        )
    check_available(load_tensorrt(options.flavour), options)


def build_engines(
    models: Mapping[str, bytes], *, precision: str, max_batch: int, options: EngineOptions
) -> dict[str, Engine]:
    """Builds a plan of each network, in memory.

    Args:
        models: ONNX files' bytes by name.
        precision: of the bundle.
        max_batch: of the bundle; the profile ends there.
        options: all but the batch profile.

    Raises:
        ErasableMaskError: see ``check_engines`` and ``build_engine``.
    """
    check_engines(precision, options)
    batch = BatchProfile(min=1, opt=min(8, max_batch), max=max_batch)
    engines = {}
    for name, data in models.items():
        try:
            graph = _in_half(data) if precision == "fp16" else data
            engines[name] = build_engine(
                graph,
                precision=COMPUTED[precision],
                options=replace(options, batch=batch),
                source=data,
            )
        except ExportError as error:
            raise type(error)(f"no plan of {name!r}: {error}") from error
    return engines


def _in_half(stored: bytes) -> bytes:
    """A network that is stored in float16, computing in it."""
    try:
        model = onnx.load_from_string(stored)
    except DecodeError as error:
        raise ExportError(f"its file holds no ONNX: {error}") from error
    return to_fp16(widen(model)).SerializeToString()
