"""The authority's door: a gRPC server that knows its clients by certificate and keeps the log.

It speaks Triton's protocol and stands before a Triton server that nobody else can reach: health, metadata
and configuration of one model, and its inference. Whatever else the protocol has is not implemented here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtraError, ServingError
from .audit import AuditLog
from .authority_request import Contract, check_named
from .authority_restore import Restoring, client_of
from .certificate_maker import EphemeralTls
from .certificates import ServerCertificates
from .clients import ClientPolicy
from .ending import Door
from .grpc_checks import RefusedError
from .grpc_options import SERVICE, server_options, upstream_options

if TYPE_CHECKING:
    import grpc

# Threads beyond those that restore: for health, for requests that still arrive, and to say "busy".
_SPARE_THREADS = 16
_HEALTH_TIMEOUT_S = 5.0
# After the drain, what was cut off still writes its record.
_CLOSING_S = 5.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DoorSettings:
    """How a door behaves.

    Attributes:
        address: host and port for clients; port 0 takes a free one.
        upstream: host and port of Triton.
        max_concurrent: erasures at once; more are refused as busy.
        receive_s: longest time for a request to arrive, which holds one of the door's threads meanwhile.
        timeout_s: for one erasure, if its client's deadline is not sooner.
        drain_s: for erasures that run when the door closes.
    """

    address: str
    upstream: str
    max_concurrent: int = 16
    receive_s: float = 30.0
    timeout_s: float = 30.0
    drain_s: float = 30.0


class AuthorityDoor(Door):
    """The door, open from the start until ``close``, which waits for what is running.

    Args:
        settings: where and how.
        contract: the network that is served.
        certificates: gives the server's own and its clients' CAs, for every connection that begins.
        upstream_tls: what Triton was started with.
        sha256_of: hex SHA-256 of a version of the network, unsealed, for the log; raises ServingError for an
            unknown one.
        log: every erasure is recorded there; stays open.
        policy: which of the certified clients are served.

    Raises:
        MissingExtraError: tritonclient is not installed.
        ServingError: the address cannot be had.
    """

    def __init__(
        self,
        settings: DoorSettings,
        *,
        contract: Contract,
        certificates: Callable[[], ServerCertificates],
        upstream_tls: EphemeralTls,
        sha256_of: Callable[[str], str],
        log: AuditLog,
        policy: ClientPolicy,
    ) -> None:
        self._grpc, self._messages, stubs = _libraries()
        self._settings = settings
        self._contract = contract
        self._sha256_of = sha256_of
        self._log = log
        self._policy = policy
        self._channel = self._open_channel(upstream_tls)
        self._triton = stubs.GRPCInferenceServiceStub(self._channel)
        threads = settings.max_concurrent + _SPARE_THREADS
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="door")
        self._server = self._grpc.server(
            self._threads, options=server_options(contract.max_message_bytes), maximum_concurrent_rpcs=threads
        )
        self._server.add_generic_rpc_handlers((self._handlers(),))
        try:
            self.port = self._listen(certificates)
        except ServingError:
            self.close()
            raise
        self._server.start()

    def close(self) -> None:
        """Takes no more requests, waits for those that run up to ``drain_s``, and cuts the rest off."""
        self._server.stop(self._settings.drain_s).wait(self._settings.drain_s + _CLOSING_S)
        self._threads.shutdown(wait=True)
        self._channel.close()

    def cut(self) -> None:
        """See ``Door.cut``; what is cut off is still recorded."""
        self._server.stop(0)

    def _open_channel(self, tls: EphemeralTls) -> grpc.Channel:
        credentials = self._grpc.ssl_channel_credentials(tls.ca, tls.client.key, tls.client.certificate)
        options = upstream_options(self._contract.max_message_bytes)
        return self._grpc.secure_channel(self._settings.upstream, credentials, options)

    def _listen(self, certificates: Callable[[], ServerCertificates]) -> int:
        served = certificates()

        def renewed() -> Any:
            """What the next connection begins with, None for what the one before it did."""
            nonlocal served
            if (found := certificates()) is served:
                return None
            served = found
            return self._tls(found)

        credentials = self._grpc.dynamic_ssl_server_credentials(
            self._tls(served), renewed, require_client_authentication=True
        )
        try:
            port: int = self._server.add_secure_port(self._settings.address, credentials)
        except RuntimeError as error:
            raise ServingError(
                f"cannot listen on {self._settings.address}: {error}; is another server running there?"
            ) from error
        return port

    def _tls(self, certificates: ServerCertificates) -> Any:
        return self._grpc.ssl_server_certificate_configuration(
            [(certificates.key, certificates.certificate)], root_certificates=certificates.client_ca
        )

    def _handlers(self) -> grpc.GenericRpcHandler:
        restore = Restoring(
            contract=self._contract,
            upstream=self._triton.ModelInfer,
            sha256_of=self._sha256_of,
            log=self._log,
            policy=self._policy,
            max_concurrent=self._settings.max_concurrent,
            timeout_s=self._settings.timeout_s,
        )
        methods: dict[str, Callable[[Any, grpc.ServicerContext], Any]] = {
            "ServerLive": self._passed_on("ServerLive"),
            "ServerReady": self._server_ready,
            "ServerMetadata": self._passed_on("ServerMetadata"),
            "ModelReady": self._passed_on("ModelReady"),
            "ModelMetadata": self._passed_on("ModelMetadata"),
            "ModelConfig": self._passed_on("ModelConfig"),
            "ModelInfer": restore,
        }
        return self._grpc.method_handlers_generic_handler(
            SERVICE,
            {
                # For clients this is no stream: one message looks the same on the wire.
                name: self._grpc.stream_unary_rpc_method_handler(
                    _in_time(method, self._settings.receive_s),
                    request_deserializer=getattr(self._messages, f"{name}Request").FromString,
                    response_serializer=getattr(self._messages, f"{name}Response").SerializeToString,
                )
                for name, method in methods.items()
            },
        )

    def _passed_on(self, name: str) -> Callable[[Any, grpc.ServicerContext], Any]:
        """A question about the server or the model, which Triton answers; it is not recorded."""
        ask = getattr(self._triton, name)

        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            try:
                _, refusal = client_of(context, self._policy)
                if refusal:
                    raise RefusedError("PERMISSION_DENIED", refusal)
                if name.startswith("Model"):
                    check_named(self._contract, request.name, request.version)
                return ask(request, timeout=min(context.time_remaining(), _HEALTH_TIMEOUT_S))
            except RefusedError as error:
                context.abort(self._grpc.StatusCode[error.code], str(error))
            except self._grpc.RpcError as error:
                context.abort(error.code(), f"the network did not answer: {error.code().name}")

        return handle

    def _server_ready(self, request: Any, context: grpc.ServicerContext) -> Any:
        answer = self._passed_on("ServerReady")(request, context)
        answer.ready = answer.ready and self._log.usable
        return answer


def _in_time(
    method: Callable[[Any, grpc.ServicerContext], Any], receive_s: float
) -> Callable[[Iterator[Any], grpc.ServicerContext], Any]:
    """Waits for a call's one message no longer than ``receive_s``; gRPC itself would wait for ever."""

    def give_up(context: grpc.ServicerContext) -> None:
        logger.info("a request did not arrive within %g s", receive_s)
        context.cancel()

    def handle(messages: Iterator[Any], context: grpc.ServicerContext) -> Any:
        import grpc

        overdue = threading.Timer(receive_s, give_up, [context])
        overdue.start()
        try:
            request = next(messages, None)
        except grpc.RpcError:  # the call is over, with nobody to answer
            return None
        finally:
            overdue.cancel()
        if request is None:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "expected a message, found none")
        return method(request, context)

    return handle


def _libraries() -> tuple[Any, Any, Any]:
    try:
        import grpc
        from tritonclient.grpc import service_pb2, service_pb2_grpc
    except (ImportError, RuntimeError) as error:  # tritonclient's own error without gRPC is the latter
        raise MissingExtraError("tritonclient[grpc]", "triton") from error
    return grpc, service_pb2, service_pb2_grpc
