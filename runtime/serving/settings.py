"""Everything that can be set on a server, in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from ..errors import ServingError
from ..manifest import Role

# What the wheel's server can run a network with: it has no GPU. NVIDIA's container brings its own backends.
SERVER_BACKENDS = ("ort-cpu", "openvino-fp32", "openvino-bf16")
ROLES: tuple[Role, ...] = ("public", "authority")
LOG_FORMATS = ("text", "json")
DEFAULT_ENVIRONMENT = Path(".venv-serve")

LogFormat = Literal["text", "json"]


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """A server's whole configuration.

    Attributes:
        role: ``public`` serves ``protect`` and ``attributes``, or an anonymiser's ``anonymise``, and
            ``authority`` serves ``restore``.
        bundle: folder of the role's bundle.
        repository: folder that ``export.repository`` wrote, for its TensorRT plans; None: from the bundle.
        config_name: which configuration, such as ``trt``; None: ONNX.
        host: address that clients reach; the default is this machine only.
        grpc_port: for clients.
        http_port: for clients, None: no HTTP.
        metrics_port: for Prometheus, None: no metrics.
        backend: runs the networks in the wheel's server, an element of ``SERVER_BACKENDS``.
        threads: CPU threads of one instance, None: the backend's own choice.
        instances: of each model, each a process.
        environment: folder of the wheel's virtual environment, made by ``erasablemask serve-env``.
        shared_memory: let clients on this machine pass tensors through system shared memory.
        start_timeout_s: until every model must have answered.
        probe_interval_s: between two inferences that check each model.
        probe_timeout_s: until such an inference counts as not answered; a full server takes seconds.
        backoff_s: before the first restart; doubled with each one that follows soon.
        backoff_max_s: the longest such wait.
        drain_s: for requests in flight, after a signal to end.
        log_format: ``text``, or ``json`` for one object a line.
        server_certificate: PEM file, the authority's.
        server_key: PEM file, its private key.
        client_ca: PEM file that the certificates of the authority's clients are checked against.
        client_revocations: PEM file of revoked certificates, one list of each CA; None: none is revoked.
        client_subjects: RFC 4514 names of clients that are served; empty: all that the CA has certified.
        max_erasures: requests that are worked on at once; more are refused as busy.
        audit_log: file that every erasure is recorded in.
        key_file: opens the sealed restorer; None: a passphrase does.

    Raises:
        ServingError: a value is out of its range, or two of them exclude each other.
    """

    role: Role
    bundle: Path
    repository: Path | None = None
    config_name: str | None = None
    host: str = "127.0.0.1"
    grpc_port: int = 8001
    http_port: int | None = None
    metrics_port: int | None = None
    backend: str = "ort-cpu"
    threads: int | None = None
    instances: int = 1
    environment: Path = DEFAULT_ENVIRONMENT
    shared_memory: bool = False
    start_timeout_s: float = 120.0
    probe_interval_s: float = 5.0
    probe_timeout_s: float = 10.0
    backoff_s: float = 0.5
    backoff_max_s: float = 30.0
    drain_s: float = 30.0
    log_format: LogFormat = "text"
    server_certificate: Path | None = None
    server_key: Path | None = None
    client_ca: Path | None = None
    client_revocations: Path | None = None
    client_subjects: tuple[str, ...] = ()
    max_erasures: int = 16
    audit_log: Path | None = None
    key_file: Path | None = None

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_numbers()
        self._check_ports()
        if self.repository is not None and self.instances != 1:
            raise ServingError(
                "the configurations in --repository say how many instances there are; leave out --instances"
            )
        if self.role == "public":
            self._check_public()
        else:
            self._check_authority()

    def _check_choices(self) -> None:
        for name, value, known in (
            ("role", self.role, ROLES),
            ("backend", self.backend, SERVER_BACKENDS),
            ("log-format", self.log_format, LOG_FORMATS),
        ):
            if value not in known:
                raise ServingError(f"expected --{name} to be one of {', '.join(known)}, found {value!r}")
        if not self.host:
            raise ServingError("expected --host to be an address such as 127.0.0.1, found nothing")

    def _check_numbers(self) -> None:
        for number in fields(self):
            value = getattr(self, number.name)
            if number.name.endswith("_s") and not (math.isfinite(value) and value > 0):
                raise ServingError(
                    f"expected {_flag(number.name)} to be a number of seconds above 0, found {value}"
                )
        for name in ("threads", "instances", "max_erasures"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ServingError(f"expected {_flag(name)} to be at least 1, found {value}")
        if self.backoff_max_s < self.backoff_s:
            raise ServingError(
                f"expected --backoff-max-s to be at least --backoff-s, {self.backoff_s}, "
                f"found {self.backoff_max_s}"
            )

    def _check_ports(self) -> None:
        taken: dict[int, str] = {}
        for name in ("grpc_port", "http_port", "metrics_port"):
            port = getattr(self, name)
            if port is None:
                continue
            if not 1 <= port <= 65535:
                raise ServingError(f"expected {_flag(name)} to be a port from 1 to 65535, found {port}")
            if (other := taken.setdefault(port, name)) != name:
                raise ServingError(
                    f"expected different ports, found {port} for {_flag(other)} and {_flag(name)}"
                )

    def _check_public(self) -> None:
        for name in (
            *("server_certificate", "server_key", "client_ca", "client_revocations", "client_subjects"),
            *("audit_log", "key_file"),
        ):
            if getattr(self, name):
                raise ServingError(f"{_flag(name)} is of the authority's server; leave it out")

    def _check_authority(self) -> None:
        for name in ("server_certificate", "server_key", "client_ca", "audit_log"):
            if getattr(self, name) is None:
                raise ServingError(
                    f"the authority's server does not start without {_flag(name)}: it answers known clients "
                    "only and records what it does"
                )
        for name in ("http_port", "metrics_port", "repository", "config_name"):
            if getattr(self, name) is not None:
                raise ServingError(f"the authority's server has no {_flag(name)}; leave it out")
        if self.shared_memory:
            raise ServingError("the authority's server has no --shared-memory; leave it out")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
