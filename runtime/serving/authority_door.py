"""The authority's door: a gRPC server that knows its clients by certificate and keeps the log.

It speaks Triton's protocol and stands before a Triton server that nobody else can reach: health, metadata
and configuration of one model, and its inference. Whatever else the protocol has is not implemented here.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..closing import Closing
from ..errors import MissingExtraError, ServingError
from .audit import AuditLog
from .authority_request import Contract, check_model
from .authority_restore import Restoring, client_of
from .certificate_maker import EphemeralTls
from .certificates import ServerCertificates
from .clients import ClientPolicy
from .grpc_checks import RefusedError

if TYPE_CHECKING:
    import grpc

_SERVICE = "inference.GRPCInferenceService"
# Threads beyond those that restore: for health, for requests that still arrive, and to say "busy".
_SPARE_THREADS = 16
_HEALTH_TIMEOUT_S = 5.0
# After the drain, what was cut off still writes its record.
_CLOSING_S = 5.0


@dataclass(frozen=True, kw_only=True)
class DoorSettings:
    """How a door behaves.

    Attributes:
        address: host and port for clients; port 0 takes a free one.
        upstream: host and port of Triton.
        max_concurrent: erasures at once; more are refused as busy.
        timeout_s: for one erasure, if its client's deadline is not sooner.
        drain_s: for erasures that run when the door closes.
    """

    address: str
    upstream: str
    max_concurrent: int = 16
    timeout_s: float = 30.0
    drain_s: float = 30.0


class AuthorityDoor(Closing):
    """The door, open from the start until ``close``, which waits for what is running.

    Args:
        settings: where and how.
        contract: the network that is served.
        certificates: the server's own and its clients' CAs.
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
        certificates: ServerCertificates,
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
            self._threads, options=self._server_options(), maximum_concurrent_rpcs=threads
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

    def _open_channel(self, tls: EphemeralTls) -> grpc.Channel:
        credentials = self._grpc.ssl_channel_credentials(tls.ca, tls.client.key, tls.client.certificate)
        options = (
            *self._message_limits(),
            # A restarted Triton is found at once, and a proxy from the environment is none for loopback.
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.enable_http_proxy", 0),
        )
        return self._grpc.secure_channel(self._settings.upstream, credentials, options)

    def _listen(self, certificates: ServerCertificates) -> int:
        credentials = self._grpc.ssl_server_credentials(
            [(certificates.key, certificates.certificate)],
            root_certificates=certificates.client_ca,
            require_client_auth=True,
        )
        try:
            port: int = self._server.add_secure_port(self._settings.address, credentials)
        except RuntimeError as error:
            raise ServingError(
                f"cannot listen on {self._settings.address}: {error}; is another server running there?"
            ) from error
        return port

    def _server_options(self) -> tuple[tuple[str, int], ...]:
        return (
            *self._message_limits(),
            # Two doors on one port would share the clients between them without a word.
            ("grpc.so_reuseport", 0),
            # No compression: a small message must not unfold into a large one.
            ("grpc.compression_enabled_algorithms_bitset", 1),
            ("grpc.server_handshake_timeout_ms", 10_000),
            # A client whose machine is gone is noticed, and gives its thread back.
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
        )

    def _message_limits(self) -> tuple[tuple[str, int], ...]:
        size = self._contract.max_message_bytes
        return ("grpc.max_receive_message_length", size), ("grpc.max_send_message_length", size)

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
            _SERVICE,
            {
                name: self._grpc.unary_unary_rpc_method_handler(
                    method,
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
                    check_model(self._contract, request.name, request.version)
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


def _libraries() -> tuple[Any, Any, Any]:
    try:
        import grpc
        from tritonclient.grpc import service_pb2, service_pb2_grpc
    except (ImportError, RuntimeError) as error:  # tritonclient's own error without gRPC is the latter
        raise MissingExtraError("tritonclient[grpc]", "triton") from error
    return grpc, service_pb2, service_pb2_grpc
