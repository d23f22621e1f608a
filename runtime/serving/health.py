"""What a stranger must know to run an inference: a server's address, and its own words on a model."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ..backends.triton_wire import DATA_TYPES
from ..errors import ServingError
from ..manifest import ModelFile, TensorSpec
from .admin import TurnedAwayError
from .endpoint import ClientTls, Endpoint

Result = TypeVar("Result")

EXPECTED = "grpc://HOST:PORT or grpcs://HOST:PORT"

_PAUSE_S = 0.2
_DTYPES = {told: dtype for dtype, told in DATA_TYPES.items()}


def endpoint_of(url: str, *, ca: Path | None, certificate: Path | None, key: Path | None) -> Endpoint:
    """Where ``grpc://HOST:PORT`` or ``grpcs://HOST:PORT`` is, and the PEM files to reach it with.

    Raises:
        ServingError: it is another kind of address, or a file is missing, unreadable or of no use there.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ServingError(f"expected {EXPECTED}, found {url!r}: {error}") from error
    if parts.scheme not in ("grpc", "grpcs") or not host or not port or parts.path.strip("/"):
        raise ServingError(f"expected {EXPECTED}, found {url!r}")
    if parts.scheme == "grpc":
        if ca or certificate or key:
            raise ServingError(f"certificates are for grpcs://, found {url!r}")
        return Endpoint(host=host, grpc_port=port)
    if (certificate is None) != (key is None):
        raise ServingError("expected a certificate and its key, found one of them")
    try:
        pems = [path.read_bytes() if path is not None else None for path in (ca, certificate, key)]
    except OSError as error:
        raise ServingError(f"cannot read {error.filename}: {error.strerror or error}") from error
    tls = ClientTls(server_ca=pems[0], certificate=pems[1], key=pems[2])
    return Endpoint(host=host, grpc_port=port, tls=tls)


def let_in(question: Callable[[], Result], timeout_s: float) -> Result:
    """Asks a door again that has no room even for a question, until the time has passed.

    Raises:
        TurnedAwayError: it never had.
        ServingError: whatever else the question raises.
    """
    until = time.monotonic() + timeout_s
    while True:
        try:
            return question()
        except TurnedAwayError:
            if time.monotonic() >= until:
                raise
        time.sleep(_PAUSE_S)


def described(metadata: Any) -> ModelFile:
    """A model's tensors, from Triton's ``ModelMetadataResponse``.

    Raises:
        ServingError: it has tensors of a kind that this project's models have not.
    """

    def spec(tensor: Any) -> TensorSpec:
        if tensor.datatype not in _DTYPES:
            raise ServingError(
                f"expected a tensor of {', '.join(_DTYPES)}, found {tensor.name!r} of {tensor.datatype}"
            )
        return TensorSpec(name=tensor.name, dtype=_DTYPES[tensor.datatype], shape=tuple(tensor.shape))

    return ModelFile(
        path="",
        sha256="",
        inputs=tuple(map(spec, metadata.inputs)),
        outputs=tuple(map(spec, metadata.outputs)),
    )
