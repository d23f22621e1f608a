"""A plain web server around ONNX Runtime: what one would write without Triton, as the peer to compare with.

FastAPI, one session, every request computed by itself in a worker thread. It speaks as much of the KServe v2
protocol over HTTP, with binary tensors, as a load generator needs, so that all servers get the same bytes.

    python -m benchmarks.serving.plain_server --bundle BUNDLE/public --model protect --port 8100
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from runtime.backends import DEFAULT_BACKEND, Backend, create_backend
from runtime.backends.triton_wire import DATA_TYPES
from runtime.manifest import ModelFile, open_bundle

from ..common import as_click_errors

HEADER_LENGTH = "inference-header-content-length"


@click.command()
@click.option("--bundle", "folder", required=True, type=click.Path(path_type=Path), help="A public bundle.")
@click.option("--model", default="protect", show_default=True)
@click.option("--backend", default=DEFAULT_BACKEND, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads inside one operation.")
@click.option("--port", required=True, type=int)
def main(folder: Path, model: str, backend: str, threads: int | None, port: int) -> None:
    """Serves one network of a bundle on loopback until it is stopped."""
    with as_click_errors():
        bundle = open_bundle(folder)
        network = create_backend(backend, bundle.read(model), threads=threads)
    with network:
        app = application(model, bundle.manifest.models[model], bundle.manifest.max_batch, network)
        uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def application(name: str, entry: ModelFile, max_batch: int, network: Backend) -> FastAPI:
    """The FastAPI application that serves ``network`` under ``name``."""
    app = FastAPI()
    counts = Counts()
    tensors = {
        side: [
            {"name": spec.name, "datatype": DATA_TYPES[spec.dtype], "shape": list(spec.shape)}
            for spec in specs
        ]
        for side, specs in (("inputs", entry.inputs), ("outputs", entry.outputs))
    }

    @app.get("/v2/health/ready")
    @app.get("/v2/health/live")
    @app.get(f"/v2/models/{name}/ready")
    def ready() -> Response:
        return Response()

    @app.get("/v2")
    def server() -> dict[str, Any]:
        return {"name": "plain", "version": "1", "extensions": ["binary_tensor_data", "statistics"]}

    @app.get(f"/v2/models/{name}")
    def metadata() -> dict[str, Any]:
        return {"name": name, "versions": ["1"], "platform": "onnxruntime", **tensors}

    @app.get(f"/v2/models/{name}/config")
    def config() -> dict[str, Any]:
        return {
            "name": name,
            "platform": "onnxruntime_onnx",
            "max_batch_size": max_batch,
            **{
                side.removesuffix("s"): [
                    {"name": t["name"], "data_type": f"TYPE_{t['datatype']}", "dims": t["shape"][1:]}
                    for t in tensors[side]
                ]
                for side in tensors
            },
        }

    @app.get(f"/v2/models/{name}/stats")
    def statistics() -> dict[str, Any]:
        return counts.as_statistics(name)

    @app.post(f"/v2/models/{name}/infer")
    async def infer(request: Request) -> Response:
        body = await request.body()
        inputs = read_tensors(body, int(request.headers[HEADER_LENGTH]))
        start = time.perf_counter_ns()
        outputs = await run_in_threadpool(network.run, inputs)
        counts.add(len(next(iter(inputs.values()))), time.perf_counter_ns() - start)
        header, payload = write_tensors(name, outputs)
        response = Response(header + payload, media_type="application/octet-stream")
        # In this spelling, which Starlette's own way would lower; the load generator knows no other.
        response.raw_headers.append((b"Inference-Header-Content-Length", str(len(header)).encode()))
        return response

    return app


class Counts:
    """What was computed so far."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests = self._faces = self._ns = 0

    def add(self, faces: int, ns: int) -> None:
        """Counts one request."""
        with self._lock:
            self._requests += 1
            self._faces += faces
            self._ns += ns

    def as_statistics(self, name: str) -> dict[str, Any]:
        """The counts as the protocol's statistics; what is not measured here is 0."""
        with self._lock:
            done = {"count": self._requests, "ns": self._ns}
            nothing = {"count": self._requests, "ns": 0}
            stats = {
                "success": done,
                "fail": {"count": 0, "ns": 0},
                "queue": nothing,
                "compute_input": nothing,
                "compute_infer": done,
                "compute_output": nothing,
                "cache_hit": {"count": 0, "ns": 0},
                "cache_miss": {"count": 0, "ns": 0},
            }
            model = {
                "name": name,
                "version": "1",
                "last_inference": 0,
                "inference_count": self._faces,
                "execution_count": self._requests,
                "inference_stats": stats,
                "batch_stats": [],
            }
        return {"model_stats": [model]}


def read_tensors(body: bytes, header_length: int) -> dict[str, NDArray]:
    """The binary tensors of a request by name."""
    tensors, at = {}, header_length
    for spec in json.loads(body[:header_length])["inputs"]:
        size = spec["parameters"]["binary_data_size"]
        dtype = np.uint8 if spec["datatype"] == "UINT8" else np.float32
        tensors[spec["name"]] = np.frombuffer(body, dtype, size // np.dtype(dtype).itemsize, at).reshape(
            spec["shape"]
        )
        at += size
    return tensors


def write_tensors(name: str, outputs: dict[str, NDArray]) -> tuple[bytes, bytes]:
    """An answer's JSON header and the binary tensors behind it."""
    specs = [
        {
            "name": output,
            "datatype": DATA_TYPES[str(values.dtype)],
            "shape": list(values.shape),
            "parameters": {"binary_data_size": values.nbytes},
        }
        for output, values in outputs.items()
    ]
    header = json.dumps({"model_name": name, "model_version": "1", "outputs": specs}).encode()
    return header, b"".join(np.ascontiguousarray(values).tobytes() for values in outputs.values())


if __name__ == "__main__":
    main()
