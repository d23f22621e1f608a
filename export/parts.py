"""One network of a bundle, from what was trained to a verified file in its precision."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from runtime.backends import DEFAULT_BACKEND

from .bundle import Network
from .detector import export_detector
from .faces import FacesU8, resized
from .mixed import computing_in, to_fp16
from .onnx_graph import to_onnx
from .parity import compare, gate, in_backend, outputs_of
from .parity_report import Comparison
from .precision import SPECS, Precision, check_precision, store_fp16
from .quantization import quantize_int8
from .rewrites import fold_batch_norms, to_subpixel
from .run import Part

# P-Net, which proposes every face, is 30 kB: float16 would save nothing and move its boxes by a percent.
_REDUCED_STAGES = ("rnet", "onet")


def export_part(
    part: Part,
    inputs: Mapping[str, NDArray],
    calibration: Mapping[str, NDArray] | None,
    precision: Precision,
    metadata: dict[str, str],
) -> Network:
    """One network through every step up to its verified precision.

    Args:
        part: the trained network.
        inputs: some by name, in ``forward``'s order.
        calibration: others, which set int8's ranges.
        precision: of the network.
        metadata: written into the file.

    Raises:
        ExportError: it cannot be translated, or lacks its precision.
    """
    spec = SPECS[precision]
    module = fold_batch_norms(part.module)
    if spec.upsampling is not None:
        module = to_subpixel(module, spec.upsampling)
    if spec.dtype != torch.float32:
        module = computing_in(module, spec.dtype)
    examples = {name: torch.from_numpy(np.repeat(values[:1], 2, axis=0)) for name, values in inputs.items()}
    graph = to_onnx(module, examples, [part.output], metadata=metadata, opset=spec.opset)
    if precision == "fp16":
        graph = store_fp16(graph)
    if precision == "fp16-mixed":
        graph = to_fp16(graph)
    if spec.activations is not None:
        assert calibration is not None
        graph = quantize_int8(graph, calibration, spec.activations)
    check_precision(graph, precision)
    return Network.of(graph)


def export_stages(faces: FacesU8, precision: Precision) -> tuple[dict[str, Network], list[Comparison]]:
    """The detector's networks by name, and how each of them compares.

    Raises:
        ExportError: one lacks its precision or fails its gate.
    """
    networks, comparisons = {}, []
    for name, graph in export_detector(SPECS[precision].opset).items():
        networks[name], comparison = _export_stage(name, graph, faces, precision)
        comparisons.append(comparison)
    return networks, comparisons


def _export_stage(
    name: str, graph: ModelProto, faces: FacesU8, precision: Precision
) -> tuple[Network, Comparison]:
    """One of the detector's networks, from its float32 graph, which is also what it is compared with.

    Below float32 it is stored in float16 and computes in float32, whatever the others do.
    """
    stored: Precision = "fp16" if precision != "fp32" and name in _REDUCED_STAGES else "fp32"
    reduced = store_fp16(graph) if stored == "fp16" else graph
    check_precision(reduced, stored)
    before, network = Network.of(graph), Network.of(reduced)
    (spec,) = network.inputs
    pixels = faces if spec.shape[1] < 0 else resized(faces, spec.shape[1])
    inputs = {spec.name: pixels.astype(spec.dtype)}
    expected, found = (outputs_of(in_backend(name, n.data), inputs) for n in (before, network))
    parity = compare(name, expected, found)
    gate(parity, stored)
    return network, Comparison(program=DEFAULT_BACKEND, bounds=stored, networks=(parity,))
