"""A proxy before the public Triton's gRPC port that checks every request and says "busy" in time.

Triton could bound its queue itself, but with a bound, or with time-outs, its batcher prepares no batch while
another runs, and then may sleep for half a second with requests in its queue (docs/serving.md).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtraError
from ..manifest import ModelFile
from .async_door import AsyncDoor
from .grpc_checks import RefusedError, check_infer, check_known, check_model, message_limit
from .grpc_options import SERVICE, server_options, upstream_options
from .memory_checks import check_region

if TYPE_CHECKING:
    import grpc.aio

    Method = Callable[[bytes, grpc.aio.ServicerContext], Awaitable[bytes]]
    Receiver = Callable[[AsyncIterator[bytes], grpc.aio.ServicerContext], Awaitable[bytes]]

# Batches of faces in flight; beyond, the door is busy. One is computed, the others wait.
BATCHES_IN_FLIGHT = 3
# Messages that arrive or are in flight: each may hold a full batch, so this bounds the memory, too.
CALLS_AT_ONCE = 256

_ABOUT_SERVER = ("ServerLive", "ServerReady", "ServerMetadata")
_ABOUT_MODEL = ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics")
_SHARED_MEMORY = ("SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister")
_HEALTH_TIMEOUT_S = 5.0

logger = logging.getLogger(__name__)


class GrpcDoor(AsyncDoor):
    """Runs the proxy in a thread of its own from ``start`` to ``close``. A context manager that starts it.

    Open: health, metadata, configuration, statistics and inference of the models; with ``shared_memory`` also
    its registration. Nothing else of the protocol is implemented.

    Args:
        models: the networks that are served, of a bundle's manifest.
        max_batch: faces in one request at most.
        upstream: Triton's gRPC, ``host:port``.
        address: where to listen, ``host:port``; port 0 takes a free one, see ``port``.
        shared_memory: let clients on this machine pass tensors so.
        receive_s: longest time for a request to arrive.
        answer_s: longest wait for Triton, if the client's deadline is not sooner.
        drain_s: how long closing waits for the requests in flight.
    """

    def __init__(
        self,
        models: Mapping[str, ModelFile],
        *,
        max_batch: int,
        upstream: str,
        address: str,
        shared_memory: bool = False,
        receive_s: float = 30.0,
        answer_s: float = 120.0,
        drain_s: float = 30.0,
    ) -> None:
        super().__init__(address)
        self.port = 0
        self._models, self._max_batch = dict(models), max_batch
        self._upstream, self._address = upstream, address
        self._shared_memory = shared_memory
        self._receive_s, self._answer_s, self._drain_s = receive_s, answer_s, drain_s
        self._faces, self._limit = 0, BATCHES_IN_FLIGHT * max_batch

    def _check_installed(self) -> None:
        try:
            from tritonclient.grpc import service_pb2  # noqa: F401
        except (ImportError, RuntimeError) as error:  # tritonclient's own error without gRPC is the latter
            raise MissingExtraError("tritonclient[grpc]", "triton") from error

    async def _serve(self, opened: threading.Event, stop: asyncio.Event, at_once: asyncio.Event) -> None:
        import grpc.aio

        size = message_limit(self._models, self._max_batch)
        async with grpc.aio.insecure_channel(self._upstream, options=upstream_options(size)) as channel:
            server = grpc.aio.server(options=server_options(size), maximum_concurrent_rpcs=CALLS_AT_ONCE)
            server.add_generic_rpc_handlers((self._handlers(channel),))
            port = self._address.rpartition(":")[2]
            if not port.isdecimal() or int(port) > 65535:  # gRPC takes 70000 for 4464
                raise ValueError(f"expected a port from 0 to 65535, found {port!r}")
            self.port = server.add_insecure_port(self._address)
            await server.start()
            opened.set()
            await stop.wait()
            stopping = asyncio.create_task(server.stop(self._drain_s))
            cutting = asyncio.create_task(at_once.wait())
            await asyncio.wait((stopping, cutting), return_when=asyncio.FIRST_COMPLETED)
            if not stopping.done():
                await server.stop(0)
            cutting.cancel()
            await stopping

    def _handlers(self, channel: grpc.aio.Channel) -> grpc.GenericRpcHandler:
        """Answers are passed on as the bytes they came as, and so are requests, once they are checked."""
        import grpc

        questions = _ABOUT_SERVER + _ABOUT_MODEL + (_SHARED_MEMORY if self._shared_memory else ())
        methods = {name: self._question(channel, name) for name in questions}
        methods["ModelInfer"] = self._infer(channel)
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                # For clients this is no stream: one message looks the same on the wire.
                name: grpc.stream_unary_rpc_method_handler(
                    _refusals_as_status(_in_time(method, self._receive_s))
                )
                for name, method in methods.items()
            },
        )

    def _question(self, channel: grpc.aio.Channel, name: str) -> Method:
        from tritonclient.grpc import service_pb2

        ask = channel.unary_unary(f"/{SERVICE}/{name}")
        message = getattr(service_pb2, f"{name}Request")

        async def handle(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
            request = _parsed(message, data)
            # Statistics without a name are of all models.
            if name in _ABOUT_MODEL and (request.name or name != "ModelStatistics"):
                check_model(self._models, request.name, request.version)
            if name in _SHARED_MEMORY:
                check_region(name, request)
            check_known(request)
            return await ask(data, timeout=_sooner(context, _HEALTH_TIMEOUT_S))

        return handle

    def _infer(self, channel: grpc.aio.Channel) -> Method:
        from tritonclient.grpc import service_pb2

        ask = channel.unary_unary(f"/{SERVICE}/ModelInfer")

        async def handle(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
            request = _parsed(service_pb2.ModelInferRequest, data)
            entry = check_model(self._models, request.model_name, request.model_version)
            faces = check_infer(request, entry, self._max_batch, shared_memory=self._shared_memory)
            # Plain bytes have no fields; without them the rest is looked through in no time.
            request.ClearField("raw_input_contents")
            check_known(request)
            with self._room(faces):
                return await ask(data, timeout=_sooner(context, self._answer_s))

        return handle

    @contextmanager
    def _room(self, faces: int) -> Iterator[None]:
        """Counts the faces in flight."""
        if self._faces + faces > self._limit:
            raise RefusedError("RESOURCE_EXHAUSTED", "busy; try again")
        self._faces += faces
        try:
            yield
        finally:
            self._faces -= faces


def _in_time(method: Method, receive_s: float) -> Receiver:
    """Waits for a call's one message no longer than ``receive_s``; gRPC itself would wait for ever."""
    import grpc.aio

    async def handle(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> bytes:
        try:
            async with asyncio.timeout(receive_s):
                data = await context.read()
        except TimeoutError as error:
            raise RefusedError(
                "DEADLINE_EXCEEDED", f"the request did not arrive within {receive_s:g} s"
            ) from error
        if data is grpc.aio.EOF:
            raise RefusedError("INVALID_ARGUMENT", "expected a message, found none")
        return await method(data, context)

    return handle


def _refusals_as_status(method: Receiver) -> Receiver:
    """What is refused, here or by Triton, as the call's status."""
    import grpc
    import grpc.aio

    async def handle(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> bytes:
        try:
            return await method(messages, context)
        except RefusedError as error:
            code, message = error.code, str(error)
        except grpc.aio.AioRpcError as error:
            code, message = error.code().name, error.details() or "the server did not answer"
        logger.info("refused with %s", code)
        await context.abort(grpc.StatusCode[code], message)
        raise AssertionError("abort returned")

    return handle


def _parsed(message: Any, data: bytes) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return message.FromString(data)
    except DecodeError as error:
        name = message.DESCRIPTOR.name
        raise RefusedError("INVALID_ARGUMENT", f"expected a {name}, found other bytes") from error


def _sooner(context: grpc.aio.ServicerContext, timeout_s: float) -> float:
    """The client's deadline, or ours if that is sooner."""
    remaining_s = context.time_remaining()
    return timeout_s if remaining_s is None else min(remaining_s, timeout_s)
