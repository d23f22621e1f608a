"""A Triton server in this process, over gRPC and HTTP: its networks are functions, its faults are told."""

from __future__ import annotations

import json
import mmap
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Semaphore, Thread
from typing import Any, Self

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc import service_pb2_grpc as services

from runtime import geometry
from runtime.backends.triton_wire import DATA_TYPES
from runtime.manifest import Manifest, ModelFile, TensorSpec

Network = Callable[[Mapping[str, NDArray]], Mapping[str, NDArray]]
DTYPES = {triton: dtype for dtype, triton in DATA_TYPES.items()}
HTTP_STATUS = {"UNAVAILABLE": 503, "INVALID_ARGUMENT": 400, "NOT_FOUND": 404, "INTERNAL": 500}


def tensor(name: str, *shape: int, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=(-1, *shape))


def model(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> ModelFile:
    return ModelFile(path="x.onnx", sha256="0" * 64, inputs=tuple(inputs), outputs=tuple(outputs))


def manifest_of(models: dict[str, ModelFile], *, max_batch: int = 8) -> Manifest:
    return Manifest(
        role="public",
        name="toy",
        image_size=64,
        crop_template=tuple(map(tuple, geometry.CROP_TEMPLATE.tolist())),
        attributes=(),
        strength=1.0,
        injection=0.5,
        max_batch=max_batch,
        precision="fp32",
        opset=18,
        target="nobody",
        terms="tests only",
        models=models,
    )


# A network that gives back its faces, for the tests of doors.
ECHO = model(
    [tensor("faces", 2, 2, 3, dtype="uint8"), tensor("strength", 1)],
    [tensor("protected", 2, 2, 3, dtype="uint8")],
)
MAX_BATCH = 4


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


class HeldTriton(services.GRPCInferenceServiceServicer):
    """What doors are tested before: its inferences are answered when the test says so.

    Attributes:
        let_go: set, as from the start on, inferences are answered at once.
        arrived: one more for every inference.
        cancelled: an inference's client was gone before it was let go.
        remaining_s: each inference's deadline.
        error: what inferences are answered with instead.
    """

    def __init__(self) -> None:
        self.let_go = Event()
        self.let_go.set()
        self.arrived = Semaphore(0)
        self.cancelled = Event()
        self.remaining_s: list[float] = []
        self.error: tuple[grpc.StatusCode, str] | None = None

    def hold(self, context: grpc.ServicerContext) -> None:
        """Waits until an inference may be answered; raises if it is to be an error."""
        self.remaining_s.append(context.time_remaining())
        context.add_callback(lambda: None if self.let_go.is_set() else self.cancelled.set())
        self.arrived.release()
        self.let_go.wait(20)
        if self.error is not None:
            context.abort(*self.error)


class FakeTriton:
    """Serves models from its context's begin to its end.

    Attributes:
        faults: status and message of the next requests, each answered so instead of being carried out.
        requests: name, inputs and parameters of every inference, also of those that a fault answers.
        pause_s: how long an inference takes.
        allows_memory: whether shared memory may be registered.
        registrations: of shared memory, so far.
        in_use: regions of shared memory are, and none may be unregistered.
        credentials: for gRPC with TLS, None for in the clear.
        tls: the same for HTTP.
    """

    def __init__(
        self,
        models: Mapping[str, tuple[ModelFile, Network]],
        credentials: grpc.ServerCredentials | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.models = dict(models)
        self.credentials, self.tls = credentials, tls
        self.faults: deque[tuple[str, str]] = deque()
        self.requests: list[tuple[str, Mapping[str, NDArray], Mapping[str, Any]]] = []
        self.pause_s = 0.0
        self.allows_memory = True
        self.in_use = False
        self.memory: dict[str, mmap.mmap] = {}
        self.registrations = 0

    def __enter__(self) -> Self:
        self._grpc = grpc.server(ThreadPoolExecutor(8))
        services.add_GRPCInferenceServiceServicer_to_server(_Servicer(self), self._grpc)
        if self.credentials is None:
            self.grpc_port = self._grpc.add_insecure_port("127.0.0.1:0")
        else:
            self.grpc_port = self._grpc.add_secure_port("127.0.0.1:0", self.credentials)
        self._grpc.start()
        handler = type("Handler", (_Handler,), {"fake": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        if self.tls is not None:
            self._http.socket = self.tls.wrap_socket(
                self._http.socket, server_side=True, do_handshake_on_connect=False
            )
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # clients of these tests vanish
        self.http_port = self._http.server_address[1]
        Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._grpc.stop(None)
        self._http.shutdown()
        self._http.server_close()

    def url(self, scheme: str) -> str:
        return f"{scheme}://127.0.0.1:{self.grpc_port if scheme.startswith('grpc') else self.http_port}"

    def infer(
        self, name: str, inputs: Mapping[str, NDArray], parameters: Mapping[str, Any]
    ) -> Mapping[str, NDArray]:
        self.requests.append((name, inputs, parameters))
        if self.faults:
            raise FaultError(*self.faults.popleft())
        time.sleep(self.pause_s)
        return self.models[name][1](inputs)

    def model(self, name: str) -> ModelFile:
        if name not in self.models:
            raise FaultError("NOT_FOUND", f"Request for unknown model: '{name}' is not found")
        return self.models[name][0]


class FaultError(Exception):
    """A status of gRPC and a message."""


class _Servicer(services.GRPCInferenceServiceServicer):
    def __init__(self, fake: FakeTriton) -> None:
        self.fake = fake

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            entry = self.fake.model(request.name)
        except FaultError as fault:
            _abort(context, fault)
        sides = [
            [
                messages.ModelMetadataResponse.TensorMetadata(
                    name=spec.name, datatype=DATA_TYPES[spec.dtype], shape=spec.shape
                )
                for spec in specs
            ]
            for specs in (entry.inputs, entry.outputs)
        ]
        return messages.ModelMetadataResponse(name=request.name, inputs=sides[0], outputs=sides[1])

    def SystemSharedMemoryRegister(self, request: Any, context: grpc.ServicerContext) -> Any:
        if not self.fake.allows_memory:
            context.abort(grpc.StatusCode.UNAVAILABLE, "This protocol is restricted, expecting header")
        with Path("/dev/shm", request.key.lstrip("/")).open("r+b") as file:
            self.fake.registrations += 1
            self.fake.memory[request.name] = mmap.mmap(file.fileno(), request.byte_size)
        return messages.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryUnregister(self, request: Any, context: grpc.ServicerContext) -> Any:
        if self.fake.in_use:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Cannot unregister shared memory region, in use.")
        self.fake.memory.pop(request.name, None)
        return messages.SystemSharedMemoryUnregisterResponse()

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        inputs, raw = {}, iter(request.raw_input_contents)
        try:
            for given in request.inputs:
                data = self._place(given) if "shared_memory_region" in given.parameters else next(raw)
                inputs[given.name] = np.frombuffer(data, DTYPES[given.datatype]).reshape(given.shape).copy()
            parameters = {name: value.int64_param for name, value in request.parameters.items()}
            outputs = self.fake.infer(request.model_name, inputs, parameters)
            return self._answer(request, outputs)
        except FaultError as fault:
            _abort(context, fault)

    def _answer(self, request: Any, outputs: Mapping[str, NDArray]) -> Any:
        answer = messages.ModelInferResponse(model_name=request.model_name)
        for wanted in request.outputs:
            values = outputs[wanted.name]
            answer.outputs.add(name=wanted.name, datatype=DATA_TYPES[values.dtype.name], shape=values.shape)
            if "shared_memory_region" in wanted.parameters:
                self._place(wanted)[:] = values.tobytes()
            else:
                answer.raw_output_contents.append(values.tobytes())
        return answer

    def _place(self, tensor: Any) -> memoryview:
        name = tensor.parameters["shared_memory_region"].string_param
        if name not in self.fake.memory:
            raise FaultError("INVALID_ARGUMENT", f"Unable to find shared memory region: '{name}'")
        start = tensor.parameters["shared_memory_offset"].int64_param
        size = tensor.parameters["shared_memory_byte_size"].int64_param
        return memoryview(self.fake.memory[name])[start : start + size]


def _abort(context: grpc.ServicerContext, fault: FaultError) -> None:
    status, message = fault.args
    context.abort(grpc.StatusCode[status], message)


class _Handler(BaseHTTPRequestHandler):
    """The part of the protocol that has the tensors in binary behind the JSON."""

    fake: FakeTriton
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Not on stderr."""

    def do_GET(self) -> None:
        name = self.path.removeprefix("/v2/models/")
        try:
            entry = self.fake.model(name)
        except FaultError as fault:
            self._fault(fault)
            return
        sides = {
            side: [
                {"name": spec.name, "datatype": DATA_TYPES[spec.dtype], "shape": spec.shape} for spec in specs
            ]
            for side, specs in (("inputs", entry.inputs), ("outputs", entry.outputs))
        }
        self._answer(200, json.dumps({"name": name, **sides}).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        length = int(self.headers.get("Inference-Header-Content-Length", len(body)))
        request, binary, inputs = json.loads(body[:length]), body[length:], {}
        for given in request["inputs"]:
            dtype = DTYPES[given["datatype"]]
            if "data" in given:
                inputs[given["name"]] = np.array(given["data"], dtype).reshape(given["shape"])
                continue
            size = given["parameters"]["binary_data_size"]
            inputs[given["name"]] = np.frombuffer(binary[:size], dtype).reshape(given["shape"])
            binary = binary[size:]
        try:
            name = self.path.removeprefix("/v2/models/").removesuffix("/infer")
            outputs = self.fake.infer(name, inputs, request.get("parameters", {}))
        except FaultError as fault:
            self._fault(fault)
            return
        described = [
            {
                "name": name,
                "datatype": DATA_TYPES[values.dtype.name],
                "shape": values.shape,
                "parameters": {"binary_data_size": values.nbytes},
            }
            for name, values in outputs.items()
        ]
        header = json.dumps({"outputs": described}).encode()
        tail = b"".join(values.tobytes() for values in outputs.values())
        self._answer(200, header + tail, {"Inference-Header-Content-Length": str(len(header))})

    def _fault(self, fault: FaultError) -> None:
        status, message = fault.args
        self._answer(HTTP_STATUS[status], json.dumps({"error": message}).encode())

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
