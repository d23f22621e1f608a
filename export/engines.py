"""TensorRT plans of a bundle's public networks, each from the network's own file in the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto

from runtime.engine_sidecar import BatchProfile
from runtime.manifest import Manifest
from runtime.tensorrt_library import load_tensorrt

from .engine import Engine, EngineOptions, build_engine, check_available
from .errors import ExportError
from .faces import FacesU8, inputs_of
from .mixed import to_fp16
from .parity import gate, in_backend, measure
from .precision import Precision, check_precision, widen

# What a plan computes in, by the precision of the bundle. A bundle that is stored in float16 computes in
# float32 on a CPU; on a GPU float16 is what storing it promises.
COMPUTED = {
    "fp32": "fp32",
    "fp16": "fp16",
    "fp16-mixed": "fp16",
    "bf16-mixed": "bf16",
    "int8-gpu": "int8",
}

# What the graph of such a plan may differ by from the bundle's file.
PLAN_BOUNDS: Precision = "fp16-mixed"


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
    models: Mapping[str, bytes], manifest: Manifest, *, options: EngineOptions, faces: FacesU8
) -> dict[str, Engine]:
    """Builds a plan of each network, in memory.

    A graph that is converted for its plan is compared with the bundle's file first, in ONNX Runtime: the plan
    computes in its types.

    Args:
        models: the bundle's ONNX files' bytes by name.
        manifest: the bundle's; the batch profile ends at its ``max_batch``.
        options: all but the batch profile.
        faces: uint8 ``(N, S, S, 3)`` to compare on.

    Raises:
        PrecisionError: a file is not in the manifest's precision.
        ParityError: a converted graph is too far from its file.
        ErasableMaskError: see ``check_engines`` and ``build_engine``.
    """
    precision = manifest.precision
    check_engines(precision, options)
    batch = BatchProfile(min=1, opt=min(8, manifest.max_batch), max=manifest.max_batch)
    engines = {}
    for name, data in models.items():
        try:
            graph, drift = data, None
            model = _parsed(data)
            check_precision(model, cast(Precision, precision))
            if precision == "fp16":
                graph = to_fp16(widen(model)).SerializeToString()
                inputs = inputs_of(name, faces, len(manifest.attributes))
                drift = measure(name, in_backend(name, data), in_backend(name, graph), inputs)
                gate(drift, PLAN_BOUNDS)
            engine = build_engine(
                graph, precision=COMPUTED[precision], options=replace(options, batch=batch), source=data
            )
        except ExportError as error:
            raise type(error)(f"no plan of {name!r}: {error}") from error
        engines[name] = replace(engine, drift=drift)
    return engines


def _parsed(stored: bytes) -> ModelProto:
    try:
        return onnx.load_from_string(stored)
    except DecodeError as error:
        raise ExportError(f"its file holds no ONNX: {error}; export the run again") from error
