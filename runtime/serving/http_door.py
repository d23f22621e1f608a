"""A proxy before Triton's HTTP port that passes on only what a client of these networks has a use for."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtraError
from ..manifest import ModelFile
from .async_door import AsyncDoor
from .connections import IDLE_S, MAX_CONNECTIONS
from .endpoint import address
from .grpc_checks import OVERHEAD_BYTES, row_bytes
from .http_checks import HttpRefusedError, body_limit, check_infer
from .room import Room, Share

if TYPE_CHECKING:
    from aiohttp import ClientSession, web

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Bodies held at once, in full batches of binary faces: beyond, the door is busy. And JSON read at once, which
# takes Python's lock.
HELD_BATCHES = 3
CHECKS_AT_ONCE = 2
LARGE_BYTES = 1 << 20

_FULL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_HEADER_LENGTH = "Inference-Header-Content-Length"
_ANSWER_HEADERS = ("Content-Type", _HEADER_LENGTH)

logger = logging.getLogger(__name__)
# aiohttp's own lines quote what it could not parse, which may be part of a picture.
_silent = logging.getLogger(f"{__name__}.parser")
_silent.disabled = True


class HttpDoor(AsyncDoor):
    """Runs the proxy in a thread of its own from ``start`` to ``close``. A context manager that starts it.

    Open: health, the server's and the models' metadata, configuration and statistics, and inference.
    Everything else is 404, another method 405. Errors are JSON like Triton's, ``{"error": "..."}``.

    Args:
        models: the networks that are served, of a bundle's manifest.
        max_batch: faces in one request at most.
        upstream_port: Triton's HTTP port, on 127.0.0.1.
        host, port: where to listen; port 0 takes a free one, see ``port``.
        receive_s: longest time for a request's body.
        answer_s: longest wait for Triton.
        drain_s: how long closing waits for the requests in flight.
    """

    def __init__(
        self,
        models: Mapping[str, ModelFile],
        *,
        max_batch: int,
        upstream_port: int,
        host: str = "127.0.0.1",
        port: int = 8000,
        receive_s: float = 30.0,
        answer_s: float = 120.0,
        drain_s: float = 30.0,
    ) -> None:
        super().__init__(address(host, port))
        self.host, self.port = host, port
        self._models, self._max_batch = dict(models), max_batch
        self._upstream = f"http://127.0.0.1:{upstream_port}"
        self._receive_s, self._answer_s, self._drain_s = receive_s, answer_s, drain_s
        largest = max(sum(map(row_bytes, model.inputs)) for model in models.values())
        self._room = Room(HELD_BATCHES * (max_batch * largest + OVERHEAD_BYTES))
        self._checks = asyncio.Semaphore(CHECKS_AT_ONCE)
        self._answering: set[asyncio.Task[Any]] = set()

    def _check_installed(self) -> None:
        try:
            import aiohttp.web  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("aiohttp", "triton") from error

    async def _serve(self, opened: threading.Event, stop: asyncio.Event, at_once: asyncio.Event) -> None:
        from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

        connector = TCPConnector(limit=0)
        timeout = ClientTimeout(total=self._answer_s)
        async with ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
            runner = web.AppRunner(
                self._application(session),
                access_log=None,
                logger=_silent,
                shutdown_timeout=self._drain_s,
                keepalive_timeout=IDLE_S,
            )
            await runner.setup()
            assert runner.server is not None
            connect = functools.partial(_connect, runner.server)
            listener: asyncio.Server | None = None
            try:
                listener = await asyncio.get_running_loop().create_server(connect, self.host, self.port)
                self.port = listener.sockets[0].getsockname()[1]
                opened.set()
                await stop.wait()
            finally:
                if listener is not None:
                    listener.close()
                cutting = asyncio.create_task(self._cut_off(at_once))
                await runner.cleanup()
                cutting.cancel()

    async def _cut_off(self, at_once: asyncio.Event) -> None:
        await at_once.wait()
        for task in self._answering:
            task.cancel()

    def _application(self, session: ClientSession) -> web.Application:
        from aiohttp import web

        async def read(request: web.Request) -> web.StreamResponse:
            """A GET, passed on under a path that is put together here."""
            if (name := request.match_info.get("model")) is not None:
                self._model(name)
            return await self._ask(session, "GET", request.path, None, {})

        async def infer(request: web.Request) -> web.StreamResponse:
            model = self._model(request.match_info["model"])
            _check_length(request, body_limit(model, self._max_batch))
            with self._room.share() as share:
                body, headers = await self._checked(request, model, share)
                return await self._ask(session, "POST", request.path, body, headers)

        async def known(request: web.Request, handler: Handler) -> web.StreamResponse:
            task = asyncio.current_task()
            assert task is not None
            self._answering.add(task)
            try:
                return await handler(request)
            finally:
                self._answering.discard(task)

        application = web.Application(middlewares=[web.middleware(_errors_as_json), web.middleware(known)])
        model = "/v2/models/{model:[A-Za-z0-9_.-]+}"
        versioned = model + "/versions/{version:[0-9]{1,18}}"
        application.router.add_post(f"{model}/infer", infer)
        application.router.add_post(f"{versioned}/infer", infer)
        for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats"):
            application.router.add_get(path, read, allow_head=False)
        for base in (model, versioned):
            for path in ("", "/ready", "/config", "/stats"):
                application.router.add_get(base + path, read, allow_head=False)
        return application

    def _model(self, name: str) -> ModelFile:
        if name not in self._models:
            known = ", ".join(sorted(self._models))
            raise HttpRefusedError(404, f"unknown model {name!r}; this server has: {known}")
        return self._models[name]

    async def _checked(
        self, request: web.Request, model: ModelFile, share: Share
    ) -> tuple[bytes, dict[str, str]]:
        """The body and the headers that are passed on."""
        from aiohttp import ClientError

        lengths = request.headers.getall(_HEADER_LENGTH, [])
        if len(lengths) > 1 or not all(re.fullmatch("[0-9]{1,12}", length) for length in lengths):
            raise HttpRefusedError(400, f"{_HEADER_LENGTH} must be one whole number of bytes")
        try:
            async with asyncio.timeout(self._receive_s):
                parts = []
                async for part in request.content.iter_any():
                    if not share.take(len(part)):
                        raise HttpRefusedError(503, "busy; try again")
                    parts.append(part)
        except TimeoutError as error:
            raise HttpRefusedError(408, f"the body did not arrive within {self._receive_s:g} s") from error
        except (ClientError, OSError) as error:
            raise HttpRefusedError(400, "the body ended early") from error
        body = b"".join(parts)
        if len(body) != request.content_length:
            raise HttpRefusedError(
                400, f"Content-Length is {request.content_length}, the body has {len(body)} bytes"
            )
        header_length = int(lengths[0]) if lengths else None
        async with self._checks:
            check = functools.partial(check_infer, body, header_length, model, self._max_batch)
            await (asyncio.to_thread(check) if len(body) > LARGE_BYTES else _now(check))
        headers = {"Content-Type": "application/octet-stream" if lengths else "application/json"}
        return body, headers | ({_HEADER_LENGTH: lengths[0]} if lengths else {})

    async def _ask(
        self, session: ClientSession, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> web.Response:
        """Triton's answer, as it is."""
        from aiohttp import ClientError, web

        headers = {**headers, "Accept-Encoding": "identity"}
        try:
            async with session.request(
                method, self._upstream + path, data=body, headers=headers, allow_redirects=False
            ) as answer:
                content = await answer.read()
        except TimeoutError as error:
            raise HttpRefusedError(504, f"Triton did not answer within {self._answer_s:g} s") from error
        except ClientError as error:
            logger.warning("Triton cannot be reached: %s", error)
            raise HttpRefusedError(502, "Triton cannot be reached; it may be starting again") from error
        kept = {name: answer.headers[name] for name in _ANSWER_HEADERS if name in answer.headers}
        return web.Response(status=answer.status, body=content, headers=kept)


def _connect(server: web.Server) -> asyncio.Protocol:
    """What serves a connection that begins. Of many at the same moment a few too many may be let in."""
    return server() if len(server.connections) < MAX_CONNECTIONS else _Full()


class _Full(asyncio.Protocol):
    """Hangs up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(_FULL)
        transport.close()


def _check_length(request: web.Request, limit: int) -> None:
    """The body's length must be told before it is read."""
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise HttpRefusedError(
            415, f"expected an uncompressed body, found Content-Encoding {encoding[:32]!r}"
        )
    if request.content_length is None:
        raise HttpRefusedError(411, "expected a Content-Length")
    if request.content_length > limit:
        raise HttpRefusedError(
            413, f"expected a body of at most {limit} bytes, found {request.content_length}"
        )


async def _now(check: Callable[[], None]) -> None:
    check()


async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What is refused, here or by the router, in Triton's form."""
    from aiohttp import web

    try:
        return await handler(request)
    except HttpRefusedError as refusal:
        logger.info("refused with %d: %s", refusal.status, refusal)
        return web.json_response({"error": str(refusal)}, status=refusal.status)
    except web.HTTPException as error:
        return web.json_response({"error": error.reason}, status=error.status)
    except Exception:
        logger.exception("a request was not handled")
        return web.json_response({"error": "the request could not be handled"}, status=500)
