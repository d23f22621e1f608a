"""What a stranger must know to run an inference: a server's address, and its own words on a model."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from ..errors import ServingError
from ..manifest import ModelFile, TensorSpec
from .admin import TRITON_TYPES

_DTYPES = {told: dtype for dtype, told in TRITON_TYPES.items()}


def parse_url(url: str) -> tuple[str, int]:
    """Host and port of ``grpc://HOST:PORT``.

    Raises:
        ServingError: it is another kind of address.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ServingError(f"expected grpc://HOST:PORT, found {url!r}: {error}") from error
    if parts.scheme != "grpc" or not host or not port or parts.path.strip("/"):
        raise ServingError(f"expected grpc://HOST:PORT, found {url!r}")
    return host, port


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
