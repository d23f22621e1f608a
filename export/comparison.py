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
from .faces import FacesU8
from .onnx_graph import OPSET
from .parity import Run, compare, gate, in_backend, outputs_of
from .parity_report import Comparison
from .precision import SPECS, Gate, Precision
from .task_parity import Functions, Seen, embed, gate_task, look_at, measure_task


@dataclass(frozen=True, kw_only=True, eq=False)
class Witness:
    """Who looks at the faces in the gate in the task's units.

    Attributes:
        recognizer: what embeds them.
        strength, injection: the bundle's defaults.
        target: the target's embedding in the recogniser's space; None without one.
    """

    recognizer: Recognizer
    strength: float
    injection: float
    target: NDArray[np.floating] | None


class Comparing:
    """The trained networks' side of all comparisons, computed once.

    Args:
        trained: the trained networks by name.
        inputs: of each of them by name, made of ``faces``.
        faces: uint8 ``(N, S, S, 3)`` aligned faces.
        witness: None leaves the gate in the task's units out.
    """

    def __init__(
        self,
        trained: Mapping[str, Run],
        inputs: Mapping[str, Mapping[str, NDArray]],
        faces: FacesU8,
        witness: Witness | None,
    ) -> None:
        self._faces, self._witness = faces, witness
        self._inputs = inputs
        self._expected = {name: outputs_of(run, self._inputs[name]) for name, run in trained.items()}
        if witness is not None:
            self._seen = self._look_at(witness, trained)
            self._clean = embed(faces, witness.recognizer)

    def everywhere(
        self,
        exported: Mapping[str, bytes],
        precision: Precision,
        *,
        leave_out: Mapping[str, str] | None = None,
    ) -> tuple[list[Comparison], dict[str, str]]:
        """Compares in every backend of a precision that is there, and lets pass what keeps its bounds.

        Args:
            exported: files' bytes by name.
            precision: of the files.
            leave_out: backends that are not to be compared in, each with the reason; never the first.

        Returns:
            A comparison for each backend, and those that are not there or broken, each with the reason.

        Raises:
            ParityError: a network breaks its bounds or cannot run, or the first backend is not there.
        """
        comparisons, missing = [], {}
        gates = SPECS[precision].gates
        for where in gates:
            if absence := (leave_out or {}).get(where.backend) or _absence(where.backend):
                if where == gates[0]:
                    raise ParityError(
                        f"{precision} is compared in {where.backend}, which is not there: {absence}"
                    )
                missing[where.backend] = absence
            else:
                comparisons.append(self.within(exported, where, program=where.backend))
        return comparisons, missing

    def within(self, exported: Mapping[str, bytes], where: Gate, *, program: str) -> Comparison:
        """Compares in one backend.

        Args:
            exported: files' bytes by name.
            where: the backend, and whose bounds.
            program: what to call it in the report.

        Raises:
            ParityError: a network breaks its bounds or cannot run.
        """
        runs = {name: in_backend(name, data, where.backend) for name, data in exported.items()}
        parities = []
        for name, run in runs.items():
            parity = compare(name, self._expected[name], outputs_of(run, self._inputs[name]))
            gate(parity, where.bounds)
            parities.append(parity)
        task = None
        if (witness := self._witness) is not None:
            seen = self._look_at(witness, runs)
            task = measure_task(self._seen, seen, self._clean, witness.recognizer, witness.target)
            gate_task(task, where.bounds)
        return Comparison(program=program, bounds=where.bounds, networks=tuple(parities), task=task)

    def _look_at(self, witness: Witness, networks: Mapping[str, Run]) -> Seen:
        return look_at(
            Functions(**networks),
            self._faces,
            witness.recognizer,
            strength=witness.strength,
            injection=witness.injection,
        )


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
