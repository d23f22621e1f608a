"""A network's Triton configuration, from its entry in the manifest.

The text is printed from Triton's own Protocol Buffers message, so that a field that does not exist or has
another type cannot be written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..backends.triton_wire import DATA_TYPES
from ..errors import BundleError, MissingExtraError
from ..manifest import ModelFile, TensorSpec

# Batches that a backend may prepare for, beside the largest: those that OpenVINO has programs for.
_WARM = (1, 2, 4, 8)

_HEADER = """\
# Written by `python -m export.repository` from a bundle's manifest; change the generator, not this file.
# Values that are Protocol Buffers' defaults hold without being printed: max_queue_delay_microseconds 0,
# response_cache disabled{unprinted_kind}.
"""


@dataclass(frozen=True, kw_only=True)
class Platform:
    """What runs a model in Triton.

    Attributes:
        name: Triton's name of it.
        kind: where an instance runs.
        config: path of its configuration in the model's folder.
        file: name of the model's file in the version's folder.
    """

    name: str
    kind: str
    config: str
    file: str


# KIND_AUTO: on the GPUs if the server sees any, else on the CPU.
ONNX = Platform(name="onnxruntime_onnx", kind="KIND_AUTO", config="config.pbtxt", file="model.onnx")
# The server reads this one with --model-config-name=trt.
TENSORRT = Platform(name="tensorrt_plan", kind="KIND_GPU", config="configs/trt.pbtxt", file="model.plan")
PLATFORMS = (ONNX, TENSORRT)


def config_text(
    name: str, entry: ModelFile, max_batch: int, platform: Platform, *, note: str = "", instances: int = 1
) -> str:
    """The configuration as the text of a ``.pbtxt`` file.

    Args:
        name: of the model, also of its folder.
        entry: inputs and outputs, each with the batch as its first axis.
        max_batch: largest batch, in faces; a TensorRT plan's profile ends there, too.
        platform: an element of ``PLATFORMS``.
        note: lines of comment, without ``#``, for the top of the file.
        instances: of the model, each with its own memory and thread or process.

    Raises:
        BundleError: an input or output has another type or shape than Triton can be told.
        MissingExtraError: tritonclient is not installed.
    """
    pb, text_format = _protobuf()
    _check_tensors(name, entry)
    config = pb.ModelConfig(
        name=name,
        platform=platform.name,
        max_batch_size=max_batch,
        version_policy=pb.ModelVersionPolicy(latest=pb.ModelVersionPolicy.Latest(num_versions=1)),
        input=[pb.ModelInput(**_tensor(spec)) for spec in entry.inputs],
        output=[pb.ModelOutput(**_tensor(spec)) for spec in entry.outputs],
        instance_group=[pb.ModelInstanceGroup(kind=platform.kind, count=instances)],
        dynamic_batching=_dynamic_batching(pb),
        model_warmup=[
            _warmup(pb, entry, batch) for batch in sorted({max_batch, *(n for n in _WARM if n < max_batch)})
        ],
        response_cache=pb.ModelResponseCache(enable=False),
    )
    header = _HEADER.format(unprinted_kind=", KIND_AUTO" if platform.kind == "KIND_AUTO" else "")
    comments = "".join(f"# {line}\n" for line in note.splitlines())
    return header + comments + text_format.MessageToString(config, use_short_repeated_primitives=True)


def _protobuf() -> tuple[Any, Any]:
    """Triton's messages and the printer of Protocol Buffers."""
    try:
        from google.protobuf import text_format
        from tritonclient.grpc import model_config_pb2
    except (ImportError, RuntimeError) as error:  # RuntimeError: tritonclient is there, without its gRPC half
        raise MissingExtraError("tritonclient", "triton") from error
    return model_config_pb2, text_format


def _check_tensors(name: str, entry: ModelFile) -> None:
    for side, specs in (("inputs", entry.inputs), ("outputs", entry.outputs)):
        if not specs:
            raise BundleError(f"the manifest names no {side} of {name!r}; export the bundle again")
        for spec in specs:
            where = f"{spec.name!r} of {name!r}"
            if spec.dtype not in DATA_TYPES:
                raise BundleError(
                    f"{where} must be one of {', '.join(DATA_TYPES)} for Triton, found {spec.dtype}; "
                    "export the bundle again"
                )
            batch, *rest = spec.shape or (0,)
            if batch != -1 or not rest or min(rest) < 1:
                raise BundleError(
                    f"{where} must have the batch, -1, as its first axis, then fixed axes of at least 1, "
                    f"found shape {spec.shape}; export the bundle again"
                )


def _type(spec: TensorSpec) -> str:
    return f"TYPE_{DATA_TYPES[spec.dtype]}"


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    """Name, type and dimensions; Triton adds the batch in front by itself."""
    return {"name": spec.name, "data_type": _type(spec), "dims": spec.shape[1:]}


def _dynamic_batching(pb: Any) -> Any:
    """Takes what waits as one batch, as soon as the network is free.

    Nothing waits for others to come: a lone request would wait for all of it. No size is preferred, because
    Triton closes a batch that has one, even while it must wait. And the queue has neither bound nor time-out:
    with either, Triton prepares no batch while another runs, and requests that all came meanwhile lie there
    until the next one comes, or for half a second. Doors bound what is in flight (``grpc_door.py``).
    """
    return pb.ModelDynamicBatching(max_queue_delay_microseconds=0)


def _warmup(pb: Any, entry: ModelFile, batch: int) -> Any:
    """Zeros for every input, ``batch`` times, before the model is called ready."""
    inputs = {
        spec.name: pb.ModelWarmup.Input(data_type=_type(spec), dims=spec.shape[1:], zero_data=True)
        for spec in entry.inputs
    }
    return pb.ModelWarmup(name=f"batch_{batch}", batch_size=batch, inputs=inputs)
