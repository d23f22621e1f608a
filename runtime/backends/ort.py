"""ONNX Runtime."""

from __future__ import annotations

import logging
from typing import Any

from numpy.typing import NDArray

from ..closing import Closing
from ..errors import BackendError
from .base import FAILED, Tensors, check_names, check_rows

PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}

# Three steps: both distributions are one Python module, and whichever was installed last must be alone.
_GPU_STEPS = (
    "for an NVIDIA GPU, run in the checkout: pip install '.[gpu]'; "
    "pip uninstall --yes onnxruntime onnxruntime-gpu; pip install onnxruntime-gpu"
)

_SPINNING = "session.intra_op.allow_spinning"

logger = logging.getLogger(__name__)

_BROKEN = "get the bundle again, or update ONNX Runtime"


class OrtBackend(Closing):
    """A network in ONNX Runtime.

    Args:
        model: the bytes of an ONNX file.
        provider: ``cpu``, ``cuda`` or ``tensorrt``. Single nodes that a GPU provider cannot run go to the
            next one in ``PROVIDERS``; the provider itself is never exchanged for another.
        threads: CPU threads inside one operation, ``None`` for ONNX Runtime's own choice.
        spinning: let idle threads wait busily. One network alone is some percent faster so; several, as in a
            photo's way through detector and networks, take the cores from one another and are several times
            slower (docs/runtime.md).

    Raises:
        BackendError: the provider is unknown or not available, or the model cannot be loaded.
    """

    def __init__(
        self, model: bytes, *, provider: str = "cpu", threads: int | None = None, spinning: bool = False
    ) -> None:
        if provider not in PROVIDERS:
            raise BackendError(f"unknown provider {provider!r}; known: {', '.join(PROVIDERS)}")
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise BackendError(
                f"ONNX Runtime is not installed; run: pip install onnxruntime, or {_GPU_STEPS}"
            ) from error
        ort.disable_telemetry_events()
        asked, available = PROVIDERS[provider], ort.get_available_providers()
        if asked[0] not in available:
            raise BackendError(
                f"ONNX Runtime {ort.__version__} has no {asked[0]} (it has: {', '.join(available)}); "
                f"{_GPU_STEPS}"
            )
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3  # errors: they also arrive as exceptions, warnings concern nobody
        options.add_session_config_entry(_SPINNING, str(int(spinning)))
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            session = ort.InferenceSession(model, options, providers=[p for p in asked if p in available])
        except Exception as error:  # ONNX Runtime's exceptions share no base below Exception
            raise BackendError(f"ONNX Runtime cannot load the network: {error}; {_BROKEN}") from error
        if (found := session.get_providers()[0]) != asked[0]:
            raise BackendError(
                f"asked for {asked[0]}, ONNX Runtime gave {found}: its libraries could not be loaded; "
                "check the CUDA and cuDNN installation, or use ort-cpu"
            )
        session.disable_fallback()  # or a provider that fails in a run is exchanged for the CPU, on stdout
        self.name = f"ort-{provider}"
        self._session: Any = session
        self._inputs = frozenset(spec.name for spec in session.get_inputs())
        self._outputs = tuple(spec.name for spec in session.get_outputs())
        logger.debug("loaded a network on %s", asked[0])

    def run(self, inputs: Tensors) -> dict[str, NDArray]:
        """See ``Backend.run``."""
        if self._session is None:
            raise BackendError("the network is closed; open it again")
        check_names(inputs, self._inputs)
        check_rows(inputs, least=0)  # an empty batch tells the detector the shapes of the outputs
        try:
            outputs = self._session.run(None, dict(inputs))
        except Exception as error:  # as above
            raise BackendError(f"the network failed on {self.name}: {error}; {FAILED}") from error
        return dict(zip(self._outputs, outputs, strict=True))

    def close(self) -> None:
        """See ``Backend.close``."""
        self._session = None
