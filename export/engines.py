"""TensorRT plans of a bundle's public networks, each from the network's own file in the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from runtime.engine_sidecar import BatchProfile

from .engine import Engine, EngineOptions, build_engine, write_engine
from .errors import ExportError
from .mixed import to_fp16
from .precision import widen

ENGINES = "engines"

# What a plan computes in, by the precision of the bundle. A bundle that is stored in float16 computes in
# float32 on a CPU; on a GPU float16 is what storing it promises.
COMPUTED = {"fp32": "fp32", "fp16": "fp16", "fp16-mixed": "fp16", "bf16-mixed": "bf16"}


def check_engines(precision: str) -> None:
    """Refuses, before any work, what no plan can be built of.

    Raises:
        ExportError: the precision is none of ``COMPUTED``.
    """
    if precision not in COMPUTED:
        raise ExportError(
            f"TensorRT plans are built of bundles in {', '.join(COMPUTED)}, found {precision}: "
            "its int8 is around 0, a CPU's is not"
        )


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
        ExportError: see ``build_engine``.
    """
    check_engines(precision)
    batch = BatchProfile(min=1, opt=min(8, max_batch), max=max_batch)
    engines = {}
    for name, data in models.items():
        graph = data
        if precision == "fp16":
            graph = to_fp16(widen(onnx.load_from_string(data))).SerializeToString()
        engines[name] = build_engine(
            graph,
            precision=COMPUTED[precision],
            options=EngineOptions(**{**vars(options), "batch": batch}),
            source=data,
        )
    return engines


def write_engines(folder: Path, engines: Mapping[str, Engine]) -> None:
    """Writes ``folder/NAME.plan`` and the description beside each.

    Raises:
        ExportError: a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error.strerror or error}") from error
    for name, engine in engines.items():
        write_engine(folder / f"{name}.plan", engine)
