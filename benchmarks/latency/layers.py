"""``benchmarks.latency layers``: where the time of the int8 networks goes in OpenVINO, by kind of layer.

OpenVINO's own profile, whose clocks cost a little, so that its sum is a little above a call's time: it is for
shares. Beside it, how fast the convolutions compute and how fast large matrices do in the same run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from export.faces import inputs_of, load_faces
from export.run import load_run
from training.probe import matrix_rate

from ..common import as_click_errors, environment
from ..schema import write_result
from .networks import CALIBRATION_FACES, NETWORKS, flops_of
from .programs import int8_graphs

# OpenVINO's layer -> what it does; whatever else there is computes single values.
KINDS = {
    "Convolution": "convolutions",
    "DepthToSpace": "moves",
    "Slice": "moves",
    "StridedSlice": "moves",
    "Concat": "moves",
    "Transpose": "moves",
    "Reorder": "moves",
    "Broadcast": "moves",
    "Interpolate": "moves",
}


@click.command()
@click.option("--run", "folder", required=True, type=click.Path(path_type=Path, exists=True), help="A run.")
@click.option(
    "--faces",
    required=True,
    type=click.Path(path_type=Path, exists=True),
    help="Aligned faces: crops.npy, or a folder.",
)
@click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--calls", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--threads", default=2, show_default=True, type=click.IntRange(min=1))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="JSON file to write.")
def command(folder: Path, faces: Path, batch: int, calls: int, threads: int, out: Path) -> None:
    """Profiles the int8 networks of a run, layer by layer."""
    torch.set_num_threads(threads)
    with as_click_errors():
        run = load_run(folder)
        crops = load_faces(faces, run.config.network.image_size, CALIBRATION_FACES + batch)
    networks: dict[str, Any] = {}
    for part in run.parts:
        if part.name not in NETWORKS:
            continue
        inputs = inputs_of(part.name, crops, len(run.attributes))
        timed = {name: values[:batch] for name, values in inputs.items()}
        graphs = int8_graphs(part, timed, {name: values[batch:] for name, values in inputs.items()})
        flops = flops_of(part, timed)
        networks[part.name] = {
            "flops_per_face": flops,
            "programs": {
                name: shares(profile(model, timed, threads=threads, calls=calls), flops)
                for name, model in graphs.items()
            },
        }
    rate = matrix_rate(torch.device("cpu"), torch.bfloat16)
    write_result(
        {
            "benchmark": "latency layers",
            "environment": environment(),
            "run": {"name": run.config.name, "steps": run.about.get("steps")},
            "settings": {"batch": batch, "calls": calls, "threads": threads},
            "matrix_rate_flops": {"bf16": rate},
            "networks": networks,
        },
        out,
    )
    for name, network in networks.items():
        for form, measured in network["programs"].items():
            parts = ", ".join(f"{kind} {ms:.2f} ms" for kind, ms in measured["ms_per_face"].items())
            click.echo(
                f"{name}, {form}: {parts} a face; convolutions at {measured['convolution_flops'] / 1e12:.2f} "
                f"TFLOP/s, bfloat16 matrices at {rate / 1e12:.2f}"
            )


def profile(model: bytes, inputs: Mapping[str, NDArray], *, threads: int, calls: int) -> dict[str, float]:
    """Milliseconds a face that each type of layer takes, on average over some calls."""
    import openvino

    core = openvino.Core()
    graph = core.read_model(model)
    graph.reshape({name: openvino.PartialShape(values.shape) for name, values in inputs.items()})
    options = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": str(threads), "PERF_COUNT": "YES"}
    request = core.compile_model(graph, "CPU", options).create_infer_request()
    batch = {name: np.ascontiguousarray(values) for name, values in inputs.items()}
    faces = len(next(iter(batch.values())))
    request.infer(batch)  # the first call prepares
    taken: dict[str, float] = defaultdict(float)
    for _ in range(calls):
        request.infer(batch)
        for layer in request.get_profiling_info():
            taken[layer.node_type] += 1e3 * layer.real_time.total_seconds() / calls / faces
    return dict(taken)


def shares(layers_ms: Mapping[str, float], flops: int) -> dict[str, Any]:
    """Time a face by kind of layer, and the convolutions' rate."""
    kinds: dict[str, float] = dict.fromkeys(("convolutions", "moves", "single values"), 0.0)
    for layer, ms in layers_ms.items():
        kinds[KINDS.get(layer, "single values")] += ms
    return {"ms_per_face": kinds, "convolution_flops": 1e3 * flops / kinds["convolutions"]}
