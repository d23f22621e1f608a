"""HTTP to a Triton server, or to the door before it."""

from __future__ import annotations

import http.client
import json
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from ..closing import Closing
from ..errors import MissingExtraError
from ..manifest import TensorSpec
from .base import Tensors
from .retries import Failure, TransportError
from .triton_wire import DATA_TYPES, ServedModel, Tls, failure_of

_HEADER_LENGTH = "Inference-Header-Content-Length"
# HTTP's status -> gRPC's, where it says more than "refused"; of what stands between, too.
_STATUS = {502: "UNAVAILABLE", 503: "UNAVAILABLE", 504: "UNAVAILABLE"}


class HttpTransport(Closing):
    """See ``Transport``. Every request in flight has a connection, which later ones use again.

    tritonclient writes and reads the bodies; its own connections belong to one thread and tell no failure
    from another, so they are Python's.

    Args:
        host, port: of the server.
        tls: None for a connection in the clear.

    Raises:
        MissingExtraError: tritonclient or what it needs for HTTP is not installed.
        OSError: a certificate or key cannot be used.
    """

    def __init__(self, host: str, port: int, *, tls: Tls | None) -> None:
        try:
            import tritonclient.http as client
        except (ImportError, RuntimeError) as error:  # tritonclient's own error without gevent is the latter
            raise MissingExtraError("tritonclient[http]", "triton") from error
        self._library: Any = client
        self._host, self._port = host, port
        self._context = _context(tls) if tls is not None else None
        self._idle: deque[http.client.HTTPConnection] = deque()

    def served(self, network: str, timeout_s: float) -> ServedModel:
        """See ``Transport.served``."""
        _, body = self._send("GET", f"/v2/models/{network}", None, {}, timeout_s)
        try:
            found = json.loads(body)
            inputs, outputs = (
                {tensor["name"]: (tensor["datatype"], tuple(tensor["shape"])) for tensor in found[side]}
                for side in ("inputs", "outputs")
            )
        except (ValueError, KeyError, TypeError) as error:
            raise TransportError(Failure.REFUSED, f"the answer is not Triton's: {error!r}") from error
        return ServedModel(inputs=inputs, outputs=outputs)

    def infer(
        self, network: str, inputs: Tensors, outputs: Sequence[TensorSpec], timeout_s: float
    ) -> dict[str, NDArray]:
        """See ``Transport.infer``."""
        tensors = []
        for name, values in inputs.items():
            tensors.append(self._library.InferInput(name, list(values.shape), DATA_TYPES[values.dtype.name]))
            tensors[-1].set_data_from_numpy(values)
        body, header_length = self._library.InferenceServerClient.generate_request_body(
            tensors,
            outputs=[self._library.InferRequestedOutput(spec.name) for spec in outputs],
        )
        headers = {"Content-Type": "application/octet-stream", _HEADER_LENGTH: str(header_length)}
        answer, body = self._send("POST", f"/v2/models/{network}/infer", body, headers, timeout_s)
        try:
            length = answer.getheader(_HEADER_LENGTH)
            found = self._library.InferResult.from_response_body(body, False, length)
            return {spec.name: found.as_numpy(spec.name) for spec in outputs}
        except (ValueError, KeyError, TypeError) as error:
            raise TransportError(Failure.REFUSED, f"the answer is not Triton's: {error!r}") from error

    def _send(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], timeout_s: float
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """One request; an answer with another status than 200 is an error."""
        end = time.monotonic() + timeout_s
        connection = self._connection(timeout_s)
        try:
            connection.request(method, path, body, headers)
            connection.sock.settimeout(max(end - time.monotonic(), 1e-3))
            answer = connection.getresponse()
            content = answer.read()
        except TimeoutError as error:
            connection.close()
            raise TransportError(Failure.LATE, f"no answer within {timeout_s:.3g} s") from error
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise TransportError(Failure.LOST, f"the connection broke: {error!r}") from error
        if answer.will_close:
            connection.close()
        else:
            self._idle.append(connection)
        if answer.status != http.client.OK:
            message = _message(content) or f"{answer.status} {answer.reason}"
            raise TransportError(failure_of(_STATUS.get(answer.status, ""), message), message)
        return answer, content

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if not _is_over(connection.sock):
                connection.sock.settimeout(timeout_s)
                return connection
            connection.close()
        if self._context is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        else:
            connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=timeout_s, context=self._context
            )
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise TransportError(Failure.UNREACHED, str(error)) from error
        return connection

    def close(self) -> None:
        """See ``Transport.close``."""
        while self._idle:
            self._idle.pop().close()


def _is_over(connection: socket.socket) -> bool:
    """Whether the server has closed an idle connection: nothing else is there to be read."""
    look = select.poll()
    look.register(connection, select.POLLIN)
    return bool(look.poll(0))


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca)
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    return context


def _message(content: bytes) -> str | None:
    """Triton's errors are ``{"error": "..."}``."""
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return None
