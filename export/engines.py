"""TensorRT plans of a bundle's public networks, each from the network's own file in the bundle."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto

from runtime.engine_sidecar import BatchProfile
from runtime.tensorrt_library import load_tensorrt

from .engine import Engine, EngineOptions, build_engine, check_available
from .errors import ExportError, ParityError
from .faces import FacesU8, inputs_of
from .mixed import to_fp16
from .parity import compare, gate, in_backend, outputs_of
from .precision import Gate, Precision, check_precision, widen

# What a plan computes in, by the precision of the bundle. A bundle that is stored in float16 computes in
# float32 on a CPU; on a GPU float16 is what storing it promises.
COMPUTED = {
    "fp32": "fp32",
    "fp16": "fp16",
    "fp16-mixed": "fp16",
    "bf16-mixed": "bf16",
    "int8-gpu": "int8",
}

# What the graph of such a plan may differ by.
PLAN_GATE = Gate("ort-cpu", "fp16-mixed")

logger = logging.getLogger(__name__)


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


def plan_graphs(models: Mapping[str, bytes], precision: str) -> dict[str, bytes]:
    """What plans of a bundle's files are built of: the files, or in half precision where they only store it.

    Args:
        models: the ONNX files' bytes by name.
        precision: of the bundle.

    Raises:
        ExportError: a file holds no ONNX, or is not in the precision.
    """
    graphs = {}
    for name, data in models.items():
        try:
            model = _parsed(data)
            check_precision(model, cast(Precision, precision))
            graphs[name] = to_fp16(widen(model)).SerializeToString() if precision == "fp16" else data
        except ExportError as error:
            raise type(error)(f"no plan of {name!r}: {error}") from error
    return graphs


def compare_graphs(
    models: Mapping[str, bytes], graphs: Mapping[str, bytes], faces: FacesU8, n_attributes: int
) -> None:
    """Compares the graphs of plans with the bundle's files, where they are others, in ONNX Runtime.

    Args:
        models: the files' bytes by name.
        graphs: of ``plan_graphs``.
        faces: uint8 ``(N, S, S, 3)``.
        n_attributes: length of the attribute vector.

    Raises:
        ParityError: one is too far from its file.
    """
    for name, graph in graphs.items():
        if graph == models[name]:
            continue
        inputs = inputs_of(name, faces, n_attributes)
        expected, found = (
            outputs_of(in_backend(name, data, PLAN_GATE.backend), inputs) for data in (models[name], graph)
        )
        drift = compare(name, expected, found)
        try:
            gate(drift, PLAN_GATE.bounds)
        except ParityError as error:
            raise ParityError(f"no plan of {name!r}: {error}") from error
        logger.info("the graph of %s's plan: at most %.3g from the bundle's file", name, drift.max)


def build_engines(
    models: Mapping[str, bytes],
    graphs: Mapping[str, bytes],
    *,
    precision: str,
    max_batch: int,
    options: EngineOptions,
) -> dict[str, Engine]:
    """Builds a plan of each network, in memory.

    Args:
        models: the bundle's files' bytes by name, which the plans stand for.
        graphs: of ``plan_graphs``.
        precision: of the bundle.
        max_batch: of the bundle; the profile ends there.
        options: all but the batch profile.

    Raises:
        ErasableMaskError: see ``check_engines`` and ``build_engine``.
    """
    check_engines(precision, options)
    options = replace(options, batch=BatchProfile(min=1, opt=min(8, max_batch), max=max_batch))
    engines = {}
    for name, graph in graphs.items():
        try:
            engines[name] = build_engine(
                graph, precision=COMPUTED[precision], options=options, source=models[name]
            )
        except ExportError as error:
            raise type(error)(f"no plan of {name!r}: {error}") from error
    return engines


def _parsed(stored: bytes) -> ModelProto:
    try:
        return onnx.load_from_string(stored)
    except DecodeError as error:
        raise ExportError(f"its file holds no ONNX: {error}; get the file again") from error
