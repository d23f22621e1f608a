"""The supervisor's own calls to its Triton: load, unload, inference, statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..backends.triton_wire import DATA_TYPES
from ..closing import Closing
from ..errors import MissingExtraError, ServingError
from .endpoint import Endpoint

if TYPE_CHECKING:
    from numpy.typing import NDArray

CALL_TIMEOUT_S = 5.0
_CHANNEL = [
    # A server that restarts is looked for at once, not after gRPC's own growing pauses.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 300),
    # A proxy from the environment is none for this machine.
    ("grpc.enable_http_proxy", 0),
]


class TritonBusyError(ServingError):
    """The server turned a request away or did not come to it in time; it may be well."""


class TurnedAwayError(TritonBusyError):
    """A door took no more requests, to whichever model."""


class Admin(Closing):
    """A gRPC client with the token of one server.

    Raises:
        MissingExtraError: tritonclient is not installed.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        try:
            import tritonclient.grpc as triton
            from grpc import ssl_channel_credentials
        except (ImportError, RuntimeError) as error:  # RuntimeError: tritonclient without its gRPC half
            raise MissingExtraError("tritonclient", "triton") from error
        tls = endpoint.tls
        self._triton: Any = triton
        self._headers = endpoint.token_headers()
        self._client = triton.InferenceServerClient(
            endpoint.grpc_url,
            creds=tls and ssl_channel_credentials(tls.server_ca, tls.key, tls.certificate),
            channel_args=_CHANNEL,
        )

    def is_ready(self) -> bool:
        """Whether the server answers and calls every model ready."""
        try:
            return bool(self._client.is_server_ready(client_timeout=CALL_TIMEOUT_S))
        except self._triton.InferenceServerException:
            return False

    def load(self, model: str, *, timeout_s: float) -> None:
        """Loads a model's latest version; without a change on the disk, nothing happens.

        Raises:
            ServingError: it cannot be loaded. A version that was served before goes on being served.
        """
        with self._errors(f"load {model}"):
            self._client.load_model(model, headers=self._headers, client_timeout=timeout_s)

    def unload(self, model: str, *, timeout_s: float) -> None:
        """Unloads a model, with its process.

        Raises:
            ServingError: the server refused.
        """
        with self._errors(f"unload {model}"):
            self._client.unload_model(model, headers=self._headers, client_timeout=timeout_s)

    def infer(
        self, model: str, inputs: Mapping[str, NDArray], *, timeout_s: float, version: str = ""
    ) -> dict[str, NDArray]:
        """Runs a model once.

        Raises:
            TritonBusyError: the server turned it away or took too long.
            ServingError: the model did not answer, or with an error.
        """
        tensors = []
        for name, values in inputs.items():
            tensor = self._triton.InferInput(name, values.shape, DATA_TYPES[values.dtype.name])
            tensor.set_data_from_numpy(values)
            tensors.append(tensor)
        with self._errors(f"infer with {model}"):
            result = self._client.infer(model, tensors, model_version=version, client_timeout=timeout_s)
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}

    def metadata(self, model: str) -> Any:
        """Triton's description of a model: names, types and shapes of its tensors.

        Raises:
            ServingError: there is no such model or no server.
        """
        with self._errors(f"describe {model}"):
            return self._client.get_model_metadata(model, client_timeout=CALL_TIMEOUT_S)

    def completed(self, model: str) -> int:
        """Requests that a model has answered well since it was loaded; all models if its name is empty.

        Raises:
            ServingError: there is no such model or no server.
        """
        with self._errors(f"count the requests of {model}"):
            answer = self._client.get_inference_statistics(model, client_timeout=CALL_TIMEOUT_S)
        return sum(stats.inference_stats.success.count for stats in answer.model_stats)

    def close(self) -> None:
        """See ``Closing.close``."""
        self._client.close()

    @contextmanager
    def _errors(self, work: str) -> Iterator[None]:
        try:
            yield
        except self._triton.InferenceServerException as error:
            status = (error.status() or "").removeprefix("StatusCode.")
            raise _KINDS.get(status, ServingError)(
                f"Triton could not {work}: {status} {error.message()}"
            ) from error


_KINDS = {
    "UNAVAILABLE": TritonBusyError,
    "DEADLINE_EXCEEDED": TritonBusyError,
    "RESOURCE_EXHAUSTED": TurnedAwayError,
}
