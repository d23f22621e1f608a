"""gRPC to a Triton server, with the tensors in the message or in memory that both processes share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..closing import Closing
from ..errors import MissingExtraError
from ..manifest import TensorSpec
from .base import Tensors
from .retries import Failure, TransportError
from .triton_memory import SharedRegions
from .triton_wire import DATA_TYPES, ServedModel, Tls, failure_of

# gRPC says so when no connection could be made; a request that fails in this way was never sent.
_NO_CONNECTION = ("failed to connect to all addresses", "dns resolution failed")

# Photos of a crowd exceed gRPC's 4 MiB; a server that starts again should be found within a second.
_CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class GrpcTransport(Closing):
    """See ``Transport``. One connection carries the requests of all threads.

    Args:
        address: ``host:port``.
        tls: None for a connection in the clear.
        shared_memory: tensors go through system shared memory; the server must be on this host.

    Raises:
        MissingExtraError: tritonclient or gRPC is not installed.
        OSError: a certificate or key cannot be read.
    """

    def __init__(self, address: str, *, tls: Tls | None, shared_memory: bool) -> None:
        try:
            import grpc
            import tritonclient.grpc as client
        except (ImportError, RuntimeError) as error:  # tritonclient's own error without gRPC is the latter
            raise MissingExtraError("tritonclient[grpc]", "triton") from error
        credentials = None
        if tls is not None:
            ca, key, certificate = (_read(path) for path in (tls.ca, tls.key, tls.certificate))
            credentials = grpc.ssl_channel_credentials(ca, key, certificate)
        self._library: Any = client
        self._client: Any = client.InferenceServerClient(address, creds=credentials, channel_args=_CHANNEL)
        self._regions: SharedRegions | None = None
        if shared_memory:
            self._regions = SharedRegions(self._register, self._unregister)

    def served(self, network: str, timeout_s: float) -> ServedModel:
        """See ``Transport.served``."""
        found = self._call(self._client.get_model_metadata, network, client_timeout=timeout_s)
        inputs, outputs = (
            {tensor.name: (tensor.datatype, tuple(tensor.shape)) for tensor in side}
            for side in (found.inputs, found.outputs)
        )
        return ServedModel(inputs=inputs, outputs=outputs)

    def infer(
        self, network: str, inputs: Tensors, outputs: Sequence[TensorSpec], timeout_s: float
    ) -> dict[str, NDArray]:
        """See ``Transport.infer``."""
        if self._regions is not None:
            return self._infer_in_memory(self._regions, network, inputs, outputs, timeout_s)
        tensors = []
        for name, values in inputs.items():
            tensors.append(self._input(name, values))
            tensors[-1].set_data_from_numpy(values)
        wanted = [self._library.InferRequestedOutput(spec.name) for spec in outputs]
        answer = self._infer(network, tensors, wanted, timeout_s)
        return {spec.name: answer.as_numpy(spec.name) for spec in outputs}

    def _infer_in_memory(
        self,
        regions: SharedRegions,
        network: str,
        inputs: Tensors,
        outputs: Sequence[TensorSpec],
        timeout_s: float,
    ) -> dict[str, NDArray]:
        rows = len(next(iter(inputs.values())))
        with regions.borrow(inputs, outputs, rows, timeout_s) as region:
            tensors, wanted = [], []
            for name, values in inputs.items():
                tensors.append(self._input(name, values))
                tensors[-1].set_shared_memory(region.name, *region.write(name, values))
            for spec in outputs:
                wanted.append(self._library.InferRequestedOutput(spec.name))
                wanted[-1].set_shared_memory(region.name, *region.place(spec.name))
            self._infer(network, tensors, wanted, timeout_s)
            return {spec.name: region.read(spec.name) for spec in outputs}

    def _input(self, name: str, values: NDArray) -> Any:
        return self._library.InferInput(name, list(values.shape), DATA_TYPES[values.dtype.name])

    def _infer(self, network: str, tensors: list[Any], wanted: list[Any], timeout_s: float) -> Any:
        return self._call(
            self._client.infer,
            network,
            tensors,
            outputs=wanted,
            client_timeout=timeout_s,
        )

    def _register(self, name: str, key: str, size_bytes: int, timeout_s: float) -> None:
        register = self._client.register_system_shared_memory
        self._call(register, name, key, size_bytes, client_timeout=timeout_s)

    def _unregister(self, name: str, timeout_s: float) -> None:
        self._call(self._client.unregister_system_shared_memory, name, client_timeout=timeout_s)

    def _call(self, method: Any, *arguments: Any, **options: Any) -> Any:
        from tritonclient.utils import InferenceServerException

        try:
            return method(*arguments, **options)
        except InferenceServerException as error:
            message = error.message() or "no reason given"
            if any(phrase in message.lower() for phrase in _NO_CONNECTION):
                raise TransportError(Failure.UNREACHED, message) from error
            status = (error.status() or "").removeprefix("StatusCode.")
            raise TransportError(failure_of(status, message), message) from error

    def close(self) -> None:
        """See ``Transport.close``."""
        if self._regions is not None:
            self._regions.close()
        self._client.close()


def _read(path: Path | None) -> bytes | None:
    return path.read_bytes() if path is not None else None
