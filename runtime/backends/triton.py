"""Networks on a Triton server: ``erasablemask serve``'s, or any other with the same model repository."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from ..closing import Closing
from ..errors import BackendError, BundleError
from .base import Tensors, check_names, check_rows
from .retries import Failure, TransportError, with_retries
from .triton_wire import ServedModel, Tls, Transport, served_tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..manifest import Manifest, ModelFile

Answer = TypeVar("Answer")

SCHEMES = ("grpc", "grpcs", "http", "https")
# How long opening waits for a server that may be starting, at most: a wrong address should be said soon.
OPENING_S = 5.0

# The authority writes a record of every attempt, so one request must not become two.
_RECORDED = frozenset({"restore"})
_REPEAT = frozenset({Failure.UNREACHED, Failure.LOST, Failure.BUSY})
_REPEAT_RECORDED = frozenset({Failure.UNREACHED})


@dataclass(frozen=True, kw_only=True)
class TritonServer:
    """Where a server is and how to speak to it. Give it as ``backend`` to a ``Protector`` or ``Eraser``.

    Attributes:
        url: ``grpc://host:port``, or ``grpcs``, ``http``, ``https``.
        tls_ca: PEM file with the certificates that the server's must come from, None for the system's.
        tls_cert, tls_key: PEM files of the client's own certificate and key, which an authority demands.
        deadline_s: for one request with all its repetitions.
        shared_memory: tensors pass through system shared memory; gRPC to a server on this host that allows
            it.

    Raises:
        BackendError: the URL is none, or the settings contradict one another.
    """

    url: str
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    deadline_s: float = 30.0
    shared_memory: bool = False

    def __post_init__(self) -> None:
        scheme, host, _ = self._parts()
        if not self.deadline_s > 0:
            raise BackendError(f"the deadline must be above 0 s, found {self.deadline_s}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise BackendError("a client certificate needs its key and a key its certificate; give both")
        if scheme in ("grpc", "http") and (self.tls_ca or self.tls_cert):
            raise BackendError(f"{scheme}:// has no TLS, so it needs no certificates; use {scheme}s://")
        if self.shared_memory and (scheme not in ("grpc", "grpcs") or not _is_local(host)):
            raise BackendError(
                f"shared memory needs gRPC to a server on this host, such as grpc://127.0.0.1:8001; "
                f"found {self.url}"
            )

    def _parts(self) -> tuple[str, str, int]:
        try:
            url = urlsplit(self.url)
            scheme, host, port = url.scheme, url.hostname, url.port
        except ValueError:  # a port that is no number
            scheme, host, port = "", None, None
        if scheme not in SCHEMES or not host or not port or self.url != f"{scheme}://{url.netloc}":
            raise BackendError(
                f"expected the server's URL as {'|'.join(SCHEMES)}://host:port, found {self.url!r}"
            )
        return scheme, host, port

    def connect(self, network: str, manifest: Manifest) -> TritonBackend:
        """One network of the server, after a check that it is the one that the manifest describes.

        Raises:
            MissingExtraError: the extra ``triton`` is not installed.
            BackendError: no server answers, or it serves another network.
            BundleError: the manifest does not describe the network.
        """
        entry = manifest.models.get(network)
        if entry is None or not entry.inputs or not entry.outputs:
            raise BundleError(
                f"the {manifest.role} bundle {manifest.name!r} does not say what enters and leaves the "
                f"network {network!r}; use the bundle that the server serves"
            )
        return TritonBackend(self, network, entry, max_batch=manifest.max_batch)

    def open_transport(self) -> Transport:
        """A way to the server, which it does not use yet.

        Raises:
            MissingExtraError: the extra ``triton`` is not installed.
            BackendError: a certificate or key cannot be used.
        """
        from .triton_grpc import GrpcTransport
        from .triton_http import HttpTransport

        scheme, host, port = self._parts()
        secure = scheme in ("grpcs", "https")
        tls = Tls(ca=self.tls_ca, certificate=self.tls_cert, key=self.tls_key) if secure else None
        try:
            if scheme in ("http", "https"):
                return HttpTransport(host, port, tls=tls)
            address = self.url.partition("://")[2]
            return GrpcTransport(address, tls=tls, shared_memory=self.shared_memory)
        except OSError as error:
            raise BackendError(
                f"a certificate or key cannot be used: {error}; expected PEM files in --tls-ca, --tls-cert "
                "and --tls-key"
            ) from error


class TritonBackend(Closing):
    """One network of a server. Several threads may run it at once, which is how requests are pipelined.

    Args:
        server: where and how.
        network: the model's name.
        entry: what enters and leaves it.
        max_batch: faces in one request at most; more become several requests, one after the other.

    Raises:
        MissingExtraError, BackendError: as of ``TritonServer.connect``.
    """

    name = "triton"

    def __init__(self, server: TritonServer, network: str, entry: ModelFile, *, max_batch: int) -> None:
        self._server, self._network, self._max_batch = server, network, max_batch
        self._inputs = {spec.name: spec for spec in entry.inputs}
        self._outputs = entry.outputs
        self._repeat = _REPEAT_RECORDED if network in _RECORDED else _REPEAT
        transport = server.open_transport()
        self._transport: Transport | None = transport
        try:
            served = self._answer(
                lambda left_s: transport.served(network, left_s), min(server.deadline_s, OPENING_S), _REPEAT
            )
            _check_served(server.url, network, entry, served)
        except BaseException:
            transport.close()
            raise

    def run(self, inputs: Tensors) -> dict[str, NDArray]:
        """See ``Backend.run``."""
        import numpy as np

        transport = self._transport
        if transport is None:
            raise BackendError("the network is closed; open it again")
        check_names(inputs, self._inputs)
        rows = check_rows(inputs)
        for name, spec in self._inputs.items():
            found = inputs[name]
            if found.dtype.name != spec.dtype or found.shape[1:] != spec.shape[1:]:
                raise BackendError(
                    f"the network failed on {self.name}: expected {name} as {spec.dtype} "
                    f"{(rows, *spec.shape[1:])}, found {found.dtype} {found.shape}"
                )
        parts = []
        for start in range(0, rows, self._max_batch):
            batch = {name: values[start : start + self._max_batch] for name, values in inputs.items()}
            parts.append(self._run_batch(transport, batch))
        return {spec.name: np.concatenate([part[spec.name] for part in parts]) for spec in self._outputs}

    def _run_batch(self, transport: Transport, batch: Tensors) -> dict[str, NDArray]:
        outputs = self._answer(
            lambda left_s: transport.infer(self._network, batch, self._outputs, left_s),
            self._server.deadline_s,
            self._repeat,
        )
        rows = check_rows(batch)
        for spec in self._outputs:
            found, expected = outputs[spec.name], (rows, *spec.shape[1:])
            if found is None or found.dtype.name != spec.dtype or found.shape != expected:
                what = "nothing" if found is None else f"{found.dtype} {found.shape}"
                raise BackendError(
                    f"{self._server.url} answered with another {spec.name} than it was asked for: expected "
                    f"{spec.dtype} {expected}, found {what}; look at the server's log"
                )
        return outputs

    def _answer(
        self, attempt: Callable[[float], Answer], deadline_s: float, repeat: frozenset[Failure]
    ) -> Answer:
        try:
            return with_retries(attempt, deadline_s=deadline_s, repeat=repeat)
        except TransportError as error:
            raise BackendError(self._explained(error, deadline_s)) from error

    def _explained(self, error: TransportError, deadline_s: float) -> str:
        url, times = self._server.url, f"{error.attempts} time{'s' if error.attempts != 1 else ''}"
        # A server that takes no certificate or another one often just hangs up.
        tls = " and the certificates" if url.startswith(("grpcs", "https")) else ""
        match error.failure:
            case Failure.UNREACHED:
                return (
                    f"no connection to {url}, tried {times}: {error}; check that the server runs "
                    f"(erasablemask serve) and the address{tls}"
                )
            case Failure.LOST if self._network in _RECORDED:
                return (
                    f"{url} broke off: {error}; an authority keeps a record of every attempt, so this is not "
                    "repeated by itself: run it again"
                )
            case Failure.LOST:
                return (
                    f"{url} broke off, tried {times}: {error}; check the server's log{tls}, then run it again"
                )
            case Failure.BUSY:
                return (
                    f"{url} is busy, tried {times}: {error}; try again later, or with fewer photos in flight "
                    "(--in-flight)"
                )
            case Failure.LATE:
                return f"{url} gave no answer within {deadline_s:g} s; try again, or with a longer --deadline"
            case Failure.REFUSED:
                return f"{url} refused {self._network!r}: {error}; its log says more"

    def close(self) -> None:
        """See ``Backend.close``."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None


def _check_served(url: str, network: str, entry: ModelFile, served: ServedModel) -> None:
    """Raises BackendError where the server's model has other tensors than the bundle's."""
    sides = (
        ("inputs", served_tensors(entry.inputs), served.inputs),
        ("outputs", served_tensors(entry.outputs), served.outputs),
    )
    for side, expected, found in sides:
        if dict(found) != expected:
            raise BackendError(
                f"{url} serves another {network!r} than the bundle's: expected the {side} "
                f"{_in_words(expected)}; found {_in_words(found)}; name the bundle that it serves (--bundle)"
            )


def _in_words(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> str:
    words = (f"{name} {dtype} {list(shape)}" for name, (dtype, shape) in sorted(tensors.items()))
    return ", ".join(words) or "none"


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
