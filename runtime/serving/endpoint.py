"""Where Triton itself listens, and what it and its own clients are told of that."""

from __future__ import annotations

import secrets
import socket
from dataclasses import dataclass, field

from ..errors import ServingError
from .settings import ServerSettings

LOOPBACK = "127.0.0.1"
# Calls of these kinds change the server or show its inside; they demand the token.
RESTRICTED: tuple[str, ...] = ("model-repository", "shared-memory", "trace", "logging")
TOKEN_KEY = "erasablemask-token"


@dataclass(frozen=True, kw_only=True)
class ClientTls:
    """What a server with TLS is reached with: PEM, in memory.

    Attributes:
        server_ca: signed the server's certificate; None: one of the system's did.
        certificate: the client's own; None: the server demands none.
        key: the certificate's.
    """

    server_ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One server's addresses.

    Attributes:
        host: that gRPC listens on.
        grpc_port: for doors and the supervisor, never for clients.
        http_port: for the HTTP door, always on loopback; None: no HTTP.
        metrics_port: None: no metrics.
        metrics_host: that they listen on.
        token: opens what is restricted; new for every run.
        restricted: kinds of calls that demand the token.
        tls: None: gRPC is in the clear.
        flags: the server's half of TLS.
    """

    host: str
    grpc_port: int
    http_port: int | None = None
    metrics_port: int | None = None
    metrics_host: str = LOOPBACK
    token: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    restricted: tuple[str, ...] = RESTRICTED
    tls: ClientTls | None = None
    flags: tuple[str, ...] = ()

    @property
    def grpc_url(self) -> str:
        """Address for clients on this machine, ``host:port``."""
        host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self.host, self.host)
        return address(host, self.grpc_port)

    def server_flags(self) -> list[str]:
        """What Triton is told."""
        apis = ",".join(self.restricted)
        flags = [
            f"--grpc-address={self.host}",
            f"--grpc-port={self.grpc_port}",
            f"--grpc-restricted-protocol={apis}:{TOKEN_KEY}={self.token}",
        ]
        if self.http_port is None:
            flags.append("--allow-http=false")
        else:
            flags += [
                f"--http-address={LOOPBACK}",
                f"--http-port={self.http_port}",
                f"--http-restricted-api={apis}:{TOKEN_KEY}={self.token}",
            ]
        if self.metrics_port is None:
            flags.append("--allow-metrics=false")
        else:
            flags += [f"--metrics-address={self.metrics_host}", f"--metrics-port={self.metrics_port}"]
        return [*flags, *self.flags]

    def token_headers(self) -> dict[str, str]:
        """What opens the restricted calls over gRPC."""
        return {f"triton-grpc-protocol-{TOKEN_KEY}": self.token}


def address(host: str, port: int) -> str:
    """``host:port``, with brackets around an address of IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def public_endpoint(settings: ServerSettings) -> Endpoint:
    """Metrics where the settings say; gRPC and HTTP on ports of their own that only doors should know."""
    restricted = RESTRICTED
    if settings.shared_memory:
        restricted = tuple(api for api in RESTRICTED if api != "shared-memory")
    return Endpoint(
        host=LOOPBACK,
        grpc_port=free_port(),
        http_port=None if settings.http_port is None else free_port(),
        metrics_port=settings.metrics_port,
        metrics_host=settings.host,
        restricted=restricted,
    )


def check_free(settings: ServerSettings) -> None:
    """Refuses ports on which something else listens, which would answer in the new server's place.

    Raises:
        ServingError: a port is taken, or the host is no address of this machine.
    """
    for port in (settings.grpc_port, settings.http_port, settings.metrics_port):
        if port is None:
            continue
        try:
            family = socket.getaddrinfo(settings.host, port, type=socket.SOCK_STREAM)[0][0]
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((settings.host, port))
        except OSError as error:
            raise ServingError(
                f"cannot listen on port {port} of {settings.host}: {error.strerror or error}; "
                "choose another port or --host"
            ) from error


def free_port() -> int:
    """A port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
