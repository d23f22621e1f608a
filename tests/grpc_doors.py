"""A gRPC door before a fake Triton, for tests, and requests to it: the network answers with the faces."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from runtime.serving.grpc_door import GrpcDoor
from runtime.serving.grpc_options import SERVICE

from .triton_fakes import ECHO, MAX_BATCH, HeldTriton

TIMEOUT_S = 10.0
MODELS = {"protect": ECHO}
Status = grpc.StatusCode
Request = service_pb2.ModelInferRequest


class FakeTriton(HeldTriton):
    """Answers with the faces as they came.

    Attributes:
        received: method and bytes of every call, in the order of their arrival.
        sent: the bytes of every answer.
        progress: how many more requests were answered at each question about it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.received: list[tuple[str, bytes]] = []
        self.sent: list[bytes] = []
        self.progress = self.count = 0
        self._server = grpc.server(ThreadPoolExecutor(16))
        self._server.add_generic_rpc_handlers((_Bytes(self),))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def reset(self) -> None:
        """Forgets what was, and answers at once."""
        self.let_go.set()
        self.error = None
        self.progress = self.count = 0
        for kept in (self.received, self.sent, self.remaining_s):
            kept.clear()
        while self.arrived.acquire(blocking=False):
            pass
        self.cancelled.clear()

    def stop(self) -> None:
        self.let_go.set()
        self._server.stop(0).wait()

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.hold(context)
        answer = service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
        answer.outputs.add(name="protected", datatype="UINT8", shape=request.inputs[0].shape)
        answer.raw_output_contents.extend(request.raw_input_contents[:1])
        return answer

    def ModelStatistics(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.count += self.progress
        answer = service_pb2.ModelStatisticsResponse()
        answer.model_stats.add(name="protect").inference_stats.success.count = self.count
        return answer

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        kinds = {"uint8": "UINT8", "float32": "FP32"}
        inputs, outputs = (
            [{"name": spec.name, "datatype": kinds[spec.dtype], "shape": spec.shape} for spec in specs]
            for specs in (ECHO.inputs, ECHO.outputs)
        )
        return service_pb2.ModelMetadataResponse(name=request.name, inputs=inputs, outputs=outputs)


class _Bytes(grpc.GenericRpcHandler):
    """Every call of the protocol to the servicer, with its bytes kept; what it does not have is empty."""

    def __init__(self, fake: FakeTriton) -> None:
        self._fake = fake

    def service(self, details: Any) -> Any:
        name = details.method.rpartition("/")[2]
        return grpc.unary_unary_rpc_method_handler(lambda data, context: self._call(name, data, context))

    def _call(self, name: str, data: bytes, context: grpc.ServicerContext) -> bytes:
        self._fake.received.append((name, data))
        if name in ("ModelInfer", "ModelMetadata", "ModelStatistics"):
            request = getattr(service_pb2, f"{name}Request").FromString(data)
            answer = getattr(self._fake, name)(request, context)
        else:
            answer = getattr(service_pb2, f"{name}Response")()
        # Not the order in which protobuf would write it: whoever parses it on the way is found out.
        sent = answer.SerializeToString() + b"\xfa\x3f\x03new"
        self._fake.sent.append(sent)
        return sent


def door_to(fake: FakeTriton, **settings: Any) -> GrpcDoor:
    return GrpcDoor(
        MODELS,
        **{
            "max_batch": MAX_BATCH,
            "upstream": f"127.0.0.1:{fake.port}",
            "address": "127.0.0.1:0",
            **settings,
        },
    )


@contextlib.contextmanager
def channel_to(door: GrpcDoor, *options: tuple[str, int]) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{door.port}", options) as channel:
        yield channel


def call(channel: grpc.Channel, data: bytes, method: str = "ModelInfer") -> bytes:
    answer: bytes = channel.unary_unary(f"/{SERVICE}/{method}")(data, timeout=TIMEOUT_S)
    return answer


def in_background(channel: grpc.Channel, rows: int = 2, timeout_s: float = TIMEOUT_S) -> Any:
    ask = channel.unary_unary(f"/{SERVICE}/ModelInfer")
    return ask.future(honest(rows).SerializeToString(), timeout=timeout_s)


def refused(action: Callable[[], Any]) -> tuple[Status, str]:
    with pytest.raises(grpc.RpcError) as caught:
        action()
    return caught.value.code(), caught.value.details()


def honest(rows: int = 2) -> Any:
    request = Request(model_name="protect", model_version="1", id="42")
    request.parameters["timeout"].int64_param = 1_000_000
    request.parameters["priority"].uint64_param = 1
    request.inputs.add(name="faces", datatype="UINT8", shape=(rows, 2, 2, 3))
    request.inputs.add(name="strength", datatype="FP32", shape=(rows, 1))
    request.outputs.add(name="protected")
    faces = np.arange(rows * 12) % 256
    request.raw_input_contents.append(faces.astype(np.uint8).tobytes())
    request.raw_input_contents.append(np.full(rows, 0.5, "<f4").tobytes())
    return request


def in_memory(rows: int = 2) -> Any:
    """The faces and the answer in shared memory, the strength in the message."""
    request = honest(rows)
    for where in (request.inputs[0], request.outputs[0]):
        where.parameters["shared_memory_region"].string_param = "psm_1"
        where.parameters["shared_memory_byte_size"].int64_param = rows * 12
        where.parameters["shared_memory_offset"].int64_param = 64
    del request.raw_input_contents[0]
    return request


def changed(change: Callable[[Any], Any], start: Callable[[], Any] = honest) -> bytes:
    request = start()
    change(request)
    data: bytes = request.SerializeToString()
    return data
