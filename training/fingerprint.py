"""What a recogniser's network is known by later: hashes of its file and of its weights.

Training records them of its surrogates, so that a benchmark can tell whether a recogniser it takes for held
out was trained against. The hash of the weights stays the same when a file is written anew, tensors are
renamed or their order changes; any training or rounding changes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Where a run's record, and then a manifest's ``training``, has the fingerprints of its surrogates, by name.
FIELD = "surrogate_fingerprints"


@dataclass(frozen=True)
class Fingerprint:
    """Hex SHA-256 hashes.

    Attributes:
        file: of the network's file; None where it comes from no file of its own.
        weights: of its weights, see ``weights_sha256``; None where it has none to know it by.
    """

    file: str | None
    weights: str | None

    def same(self, other: Fingerprint) -> bool:
        """Whether both are of one network."""
        return (self.file is not None and self.file == other.file) or (
            self.weights is not None and self.weights == other.weights
        )


def weights_sha256(tensors: Iterable[NDArray]) -> str | None:
    """Hash of all kernels and matrices, in float32, whatever their names and order; None without any.

    Vectors and numbers are left out: writers of files fold and split them.
    """
    parts = sorted(
        hashlib.sha256(np.ascontiguousarray(tensor, dtype=np.float32).tobytes()).hexdigest()
        for tensor in tensors
        if tensor.ndim >= 2 and tensor.size > max(tensor.shape) and tensor.dtype.kind == "f"
    )
    return hashlib.sha256("".join(parts).encode()).hexdigest() if parts else None


def attacked_runs(training: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The records of the runs whose surrogates the networks were trained against, the last run first.

    A run that begins stage 2 anew takes nothing of its forebear's but stage 1, which knows no surrogates.

    Args:
        training: a checkpoint's ``about``, or a manifest's ``training``.
    """
    record: Any = training
    while isinstance(record, dict):
        yield record
        before: Any = record.get("continues")
        anew = isinstance(before, dict) and before.get("from_stage") == "attack"
        record = None if anew and not before.get("keep_trained") else before


def onnx_fingerprint(path: Path) -> Fingerprint:
    """Of an ONNX file.

    Raises:
        ValueError: it is no ONNX file.
    """
    import onnx

    data = path.read_bytes()
    try:
        graph = onnx.load_from_string(data).graph
    except Exception as error:  # protobuf's own, which is no public name
        raise ValueError(f"{path} is not an ONNX file: {error}") from error
    return Fingerprint(hashlib.sha256(data).hexdigest(), weights_sha256(_onnx_tensors(graph)))


def _onnx_tensors(graph: object) -> Iterator[NDArray]:
    from onnx import GraphProto, numpy_helper

    assert isinstance(graph, GraphProto)
    for tensor in graph.initializer:
        yield numpy_helper.to_array(tensor)
    for node in graph.node:
        if node.op_type == "Constant":
            yield from (numpy_helper.to_array(a.t) for a in node.attribute if a.name == "value")
