"""What the authority's door lets through of a request, and what it says of the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from runtime.errors import BundleError
from runtime.manifest import ModelFile, TensorSpec, open_bundle
from runtime.serving.authority_request import Contract
from runtime.shipped import default_bundle
from tests.doors import CLERK, connect, infer, infer_request, open_door, records, refused


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


@pytest.fixture
def opened(path: Path) -> Iterator[tuple]:
    with open_door(path) as parts:
        yield parts


def rename_model(request) -> None:
    request.model_name = "protect\n" * 50


def other_version(request) -> None:
    request.model_version = "../1"


def digits_of_another_script(request) -> None:
    request.model_version = "\u0661"


def rename_input(request) -> None:
    request.inputs[0].name = "photos"


def no_input(request) -> None:
    del request.inputs[:]


def second_input(request) -> None:
    request.inputs.add(name="faces", datatype="UINT8", shape=[1])


def other_type(request) -> None:
    request.inputs[0].datatype = "FP32"


def other_shape(request) -> None:
    request.inputs[0].shape[1] = 9


def flat(request) -> None:
    del request.inputs[0].shape[2:]


def no_faces(request) -> None:
    request.inputs[0].shape[0] = 0


def negative(request) -> None:
    request.inputs[0].shape[0] = -1


def huge(request) -> None:
    request.inputs[0].shape[0] = 2**62


def too_many(request) -> None:
    request.CopyFrom(infer_request(5))


def too_few_bytes(request) -> None:
    request.raw_input_contents[0] = request.raw_input_contents[0][:-1]


def no_bytes(request) -> None:
    del request.raw_input_contents[:]


def numbers(request) -> None:
    request.inputs[0].contents.uint_contents.append(1)


def shared_memory_in(request) -> None:
    request.inputs[0].parameters["shared_memory_region"].string_param = "region"


def shared_memory_out(request) -> None:
    request.outputs.add(name="restored").parameters["shared_memory_region"].string_param = "region"


def other_output(request) -> None:
    request.outputs.add(name="weights")


def sequence(request) -> None:
    request.parameters["sequence_id"].int64_param = 1


@pytest.mark.parametrize(
    ("spoil", "code", "message"),
    [
        (rename_model, "NOT_FOUND", "which alone is served here"),
        (other_version, "NOT_FOUND", r"expected a version number or none, found '\.\./1'"),
        (digits_of_another_script, "NOT_FOUND", "expected a version number or none, found"),
        (rename_input, "INVALID_ARGUMENT", "expected the input 'faces' alone, found 'photos'"),
        (no_input, "INVALID_ARGUMENT", "alone, found 'none'"),
        (second_input, "INVALID_ARGUMENT", "alone, found 'faces, faces'"),
        (other_type, "INVALID_ARGUMENT", r"UINT8 \(faces, 8, 8, 3\), found 'FP32'"),
        (other_shape, "INVALID_ARGUMENT", r"found 'UINT8' '\(2, 9, 8, 3\)'"),
        (flat, "INVALID_ARGUMENT", r"found 'UINT8' '\(2, 8\)'"),
        (no_faces, "INVALID_ARGUMENT", "expected 1 to 4 faces in a request, found 0"),
        (negative, "INVALID_ARGUMENT", "expected 1 to 4 faces in a request, found -1"),
        (huge, "INVALID_ARGUMENT", "expected 1 to 4 faces in a request, found 4611686018427387904"),
        (too_many, "INVALID_ARGUMENT", "expected 1 to 4 faces in a request, found 5"),
        (too_few_bytes, "INVALID_ARGUMENT", "expected 384 bytes for 2 faces, found '383'"),
        (no_bytes, "INVALID_ARGUMENT", "expected 384 bytes for 2 faces, found 'none'"),
        (numbers, "INVALID_ARGUMENT", "as raw_input_contents, found a list of numbers"),
        (shared_memory_in, "INVALID_ARGUMENT", "parameters such as for shared memory"),
        (shared_memory_out, "INVALID_ARGUMENT", "an output without parameters"),
        (other_output, "INVALID_ARGUMENT", "expected the output 'restored' or none named, found 'weights'"),
        (sequence, "INVALID_ARGUMENT", "no parameters but timeout and priority, found 'sequence_id'"),
    ],
)
def test_a_request_for_something_else_is_refused_and_recorded(
    opened, path: Path, spoil: Callable[[Any], None], code: str, message: str
) -> None:
    door, fake, _ = opened
    request = infer_request()
    spoil(request)
    with connect(door.port, CLERK) as stub:
        error = refused(lambda: infer(stub, request))
        assert error.code() == grpc.StatusCode[code], error
        assert re.search(message, error.details()), error.details()
        infer(stub)
    assert len(fake.requests) == 1
    first, second = records(path)
    assert (first["outcome"], first["reason"]) == ("refused", error.details())
    assert len(first["reason"]) < 250
    assert second["outcome"] == "restored"


def tensor(name: str = "faces", dtype: str = "uint8", shape: tuple[int, ...] = (-1, 8, 8, 3)) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def test_the_shipped_restorer_can_be_served() -> None:
    manifest = open_bundle(default_bundle("authority")).manifest
    contract = Contract.of("restore", manifest.models["restore"], max_batch=64)
    assert (contract.input, contract.output, contract.face_shape) == ("faces", "restored", (128, 128, 3))
    assert contract.max_message_bytes > 64 * 128 * 128 * 3


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ((), (), "found none"),
        ((tensor(), tensor("more")), (tensor("restored"),), "takes and gives one tensor of faces"),
        ((tensor(dtype="float32"),), (tensor("restored"),), "found faces float32"),
        ((tensor(shape=(1, 8, 8, 3)),), (tensor("restored"),), r"uint8 \(-1, H, W, 3\), found"),
        ((tensor(),), (tensor("restored", shape=(-1, 9, 9, 3)),), "keeps the faces' shape"),
    ],
)
def test_another_kind_of_network_cannot(inputs: tuple, outputs: tuple, message: str) -> None:
    entry = ModelFile(path="x.onnx", sha256="ab" * 32, inputs=inputs, outputs=outputs)
    with pytest.raises(BundleError, match=message):
        Contract.of("restore", entry, max_batch=4)
