"""What a request to the authority may hold, and what the answer must: one tensor of faces each, raw.

Everything else that Triton's protocol has is refused here, so that what is hashed is what is worked on:
tensors as lists of numbers, shared memory, classification, sequences, several inputs, other models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from ..errors import BundleError
from ..manifest import ModelFile, TensorSpec
from .grpc_checks import OVERHEAD_BYTES, RefusedError, check_version, shortened

# For Triton's queue; they change when a request is worked on, not how.
PARAMETERS = frozenset({"timeout", "priority"})


@dataclass(frozen=True, kw_only=True)
class Contract:
    """The one network that is served.

    Attributes:
        model: its name in Triton.
        max_batch: most faces of a request.
        input, output: names of its tensors.
        face_shape: of one face in both, uint8.
    """

    model: str
    max_batch: int
    input: str
    output: str
    face_shape: tuple[int, ...]

    @classmethod
    def of(cls, model: str, entry: ModelFile, *, max_batch: int) -> Self:
        """The contract of a network in a bundle's manifest.

        Raises:
            BundleError: it is not from one tensor of uint8 faces to another of the same shape.
        """
        specs = (*entry.inputs, *entry.outputs)
        if len(entry.inputs) != 1 or len(entry.outputs) != 1 or not all(map(_is_faces, specs)):
            raise BundleError(
                f"expected that {model!r} takes and gives one tensor of faces, uint8 (-1, H, W, 3), found "
                f"{', '.join(f'{spec.name} {spec.dtype} {spec.shape}' for spec in specs) or 'none'}"
            )
        first, second = specs
        if first.shape != second.shape:
            raise BundleError(
                f"expected that {model!r} keeps the faces' shape, found {first.shape} and {second.shape}"
            )
        return cls(
            model=model,
            max_batch=max_batch,
            input=first.name,
            output=second.name,
            face_shape=first.shape[1:],
        )

    @property
    def face_bytes(self) -> int:
        """Size of one face."""
        height, width, channels = self.face_shape
        return height * width * channels

    @property
    def max_message_bytes(self) -> int:
        """Size of the largest request and answer. Requests are read before they are checked."""
        return self.max_batch * self.face_bytes + OVERHEAD_BYTES


def check_named(contract: Contract, name: str, version: str) -> None:
    """Checks that a request means the network that is served.

    Raises:
        RefusedError: NOT_FOUND.
    """
    if name != contract.model:
        raise RefusedError(
            "NOT_FOUND",
            f"expected the model {contract.model!r}, which alone is served here; found {shortened(name)}",
        )
    check_version(version)


def check_request(contract: Contract, request: Any) -> Any:
    """Checks a ``ModelInferRequest``.

    Returns:
        A new one with what was checked and nothing else.

    Raises:
        RefusedError: NOT_FOUND or INVALID_ARGUMENT, and what is wrong.
    """
    check_named(contract, request.model_name, request.model_version)
    if unknown := sorted(set(request.parameters) - PARAMETERS):
        raise _invalid(
            f"expected no parameters but timeout and priority, found {shortened(', '.join(unknown))}"
        )
    names = [tensor.name for tensor in request.inputs]
    if names != [contract.input]:
        raise _invalid(
            f"expected the input {contract.input!r} alone, found {shortened(', '.join(names) or 'none')}"
        )
    faces = request.inputs[0]
    shape = (*faces.shape,)
    expected = ", ".join(map(str, contract.face_shape))
    if faces.datatype != "UINT8" or shape[1:] != contract.face_shape:
        raise _invalid(
            f"expected {contract.input!r} to be UINT8 (faces, {expected}), found {shortened(faces.datatype)} "
            f"{shortened(str(shape))}"
        )
    if not 1 <= shape[0] <= contract.max_batch:
        raise _invalid(f"expected 1 to {contract.max_batch} faces in a request, found {shape[0]}")
    if faces.parameters:
        raise _invalid("expected the faces in the request itself, found parameters such as for shared memory")
    if faces.HasField("contents"):
        raise _invalid("expected the faces as raw_input_contents, found a list of numbers")
    sizes = [len(raw) for raw in request.raw_input_contents]
    if sizes != [shape[0] * contract.face_bytes]:
        raise _invalid(
            f"expected {shape[0] * contract.face_bytes} bytes for {shape[0]} faces, found "
            f"{shortened(', '.join(map(str, sizes)) or 'none')}"
        )
    _check_outputs(contract, request)
    return _copy(request)


def check_answer(contract: Contract, answer: Any, faces: int) -> bytes:
    """The restored faces of a ``ModelInferResponse``.

    Raises:
        RefusedError: INTERNAL, the answer is not what the network gives.
    """
    shape = [(tensor.name, tensor.datatype, (*tensor.shape,)) for tensor in answer.outputs]
    sizes = [len(raw) for raw in answer.raw_output_contents]
    if shape != [(contract.output, "UINT8", (faces, *contract.face_shape))] or sizes != [
        faces * contract.face_bytes
    ]:
        raise RefusedError("INTERNAL", "the network's answer has another form than its bundle says")
    raw: bytes = answer.raw_output_contents[0]
    return raw


def _is_faces(spec: TensorSpec) -> bool:
    return spec.dtype == "uint8" and len(spec.shape) == 4 and spec.shape[0] == -1 and spec.shape[3] == 3


def _check_outputs(contract: Contract, request: Any) -> None:
    names = [tensor.name for tensor in request.outputs]
    if names not in ([], [contract.output]):
        raise _invalid(
            f"expected the output {contract.output!r} or none named, found {shortened(', '.join(names))}"
        )
    if any(tensor.parameters for tensor in request.outputs):
        raise _invalid(
            "expected an output without parameters, found some, such as for shared memory or classification"
        )


def _copy(request: Any) -> Any:
    fresh = type(request)(
        model_name=request.model_name,
        model_version=request.model_version,
        id=request.id,
        raw_input_contents=request.raw_input_contents,
    )
    for name in request.parameters:
        fresh.parameters[name].CopyFrom(request.parameters[name])
    faces = request.inputs[0]
    fresh.inputs.add(name=faces.name, datatype=faces.datatype, shape=faces.shape)
    for output in request.outputs:
        fresh.outputs.add(name=output.name)
    return fresh


def _invalid(message: str) -> RefusedError:
    return RefusedError("INVALID_ARGUMENT", message)
