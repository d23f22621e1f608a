"""Every comparison of an export with the trained networks: in each backend of its precision, gated there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from runtime.backends import create_backend
from runtime.errors import BackendError
from runtime.recognizers import Recognizer

from .errors import ParityError
from .faces import FacesU8, inputs_of
from .onnx_graph import OPSET
from .parity import Run, gate, in_backend, measure
from .parity_report import Comparison
from .precision import SPECS, Precision
from .task_parity import Functions, gate_task, measure_task


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What the gate in the task's units needs, see ``measure_task``.

    Attributes:
        recognizer: what embeds the faces.
        strength, injection: the bundle's defaults.
        target: the target's embedding in the recogniser's space; None without one.
    """

    recognizer: Recognizer
    strength: float
    injection: float
    target: NDArray[np.floating] | None


def compare_networks(
    trained: Mapping[str, Run],
    exported: Mapping[str, bytes],
    faces: FacesU8,
    n_attributes: int,
    precision: Precision,
    task: Task | None,
) -> tuple[tuple[Comparison, ...], dict[str, str]]:
    """Compares, and lets pass what keeps its bounds, in all backends of the precision that are there.

    Args:
        trained: the trained networks by name.
        exported: their files' bytes.
        faces: uint8 ``(N, S, S, 3)`` aligned faces.
        n_attributes: length of the attribute vector.
        precision: of the files.
        task: None leaves that gate out.

    Returns:
        A comparison for each backend, and the backends that are not there, each with the reason.

    Raises:
        ParityError: a network breaks its bounds or cannot run, or the first backend is not there.
    """
    comparisons, missing = [], {}
    demanded = SPECS[precision].gates[0].backend
    for where in SPECS[precision].gates:
        if absence := _absence(where.backend):
            if where.backend == demanded:
                raise ParityError(f"{precision} is compared in {demanded}, which is not there: {absence}")
            missing[where.backend] = absence
            continue
        candidates = {name: in_backend(name, data, where.backend) for name, data in exported.items()}
        parities = []
        for name, candidate in candidates.items():
            parity = measure(name, trained[name], candidate, inputs_of(name, faces, n_attributes))
            gate(parity, where.bounds)
            parities.append(parity)
        seen = None
        if task is not None:
            seen = measure_task(
                Functions(**trained),
                Functions(**candidates),
                faces,
                task.recognizer,
                strength=task.strength,
                injection=task.injection,
                target=task.target,
            )
            gate_task(seen, where.bounds)
        comparisons.append(
            Comparison(program=where.backend, bounds=where.bounds, networks=tuple(parities), task=seen)
        )
    return tuple(comparisons), missing


def _absence(backend: str) -> str:
    """Why a backend cannot run even a network that does nothing; empty if it can."""
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, 2, 2]) for name in ("x", "y")
    ]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", values[:1], values[1:])
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(
        graph, opset_imports=[opset], ir_version=helper.find_min_ir_version_for([opset])
    )
    try:
        create_backend(backend, model.SerializeToString()).close()
    except BackendError as error:
        return str(error)
    return ""
