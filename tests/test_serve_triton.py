"""What Triton itself does with what the doors refuse. If a test here fails, a door may be needless by now."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.serving import Running, face_inputs, serving, skip_without_server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    skip_without_server()
    with serving(tmp_path) as running:
        yield running


def test_one_tensor_that_claims_a_huge_shape_in_json_ends_it(server: Running) -> None:
    """49 GB of faces, none of which is there."""
    triton = server.triton_pid()
    faces = {"name": "faces", "shape": [1_000_000, 128, 128, 3], "datatype": "UINT8", "data": [0]}
    connection = http.client.HTTPConnection("127.0.0.1", int(server.flag("http-port")), timeout=20)
    connection.request("POST", "/v2/models/attributes/infer", json.dumps({"inputs": [faces]}).encode())
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        connection.getresponse()
    connection.close()
    server.wait_for("the server ended with status")
    server.wait_for("ready: ", times=2)
    assert server.triton_pid() != triton


def test_a_batch_of_no_rows_fails_the_requests_that_it_is_fused_with(server: Running) -> None:
    """It is taken for 128 rows, the first of its other axes, which is more than a batch may have."""
    honest, bad = (service_pb2.ModelInferRequest(model_name="attributes") for _ in range(2))
    for request, rows in ((honest, 1), (bad, 0)):
        request.inputs.add(name="faces", datatype="UINT8", shape=(rows, 128, 128, 3))
        request.raw_input_contents.append(face_inputs(1)["faces"].tobytes())
    end = time.monotonic() + 20
    spoilt = threading.Event()

    def ask(request: service_pb2.ModelInferRequest) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{server.flag('grpc-port')}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            while not spoilt.is_set() and time.monotonic() < end:
                try:
                    stub.ModelInfer(request, timeout=20)
                except grpc.RpcError as error:
                    if request is honest and "max allowed is" in error.details():
                        spoilt.set()

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(ask, [bad, *[honest] * 5]))
    assert spoilt.is_set()
