"""Every backend keeps one contract, and gives what ONNX Runtime gives on the CPU, with the shipped networks.

What runs here: ONNX Runtime and OpenVINO themselves. The Triton server, and TensorRT with its GPU, are
stand-ins that compute in ONNX Runtime: of these two the way of the tensors is compared, not a network's
numbers. tests/test_serve_public.py compares those of a real server; those of a GPU are not compared yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.faces import synthetic_faces
from runtime.authority import Secret, read_key_file, unseal_model
from runtime.backends import AUTO, AUTO_ORDER, Backend, create_backend
from runtime.backends.openvino import OpenVinoBackend
from runtime.backends.openvino_graph import replace_transposed
from runtime.backends.tensorrt import TensorRtBackend
from runtime.backends.triton import TritonServer
from runtime.engine_sidecar import BatchProfile
from runtime.errors import BackendError
from runtime.manifest import ModelFile, open_bundle
from runtime.shipped import default_bundle
from runtime.subpixel import SubpixelForm

from .conftest import onnx_bytes
from .sidecars import sidecar
from .tensorrt_fakes import FakeGpu, FakeNetwork
from .triton_fakes import FakeTriton, manifest_of, model, tensor

BATCHES = (1, 3, 8, 13)
# Levels of a picture and probabilities: at most, and on average. bf16 has 8 bits, a level is one of 256.
# What hands the tensors to ONNX Runtime adds nothing of its own.
BOUNDS = {
    "ort-cpu": (0, 0),
    "openvino-fp32": (1, 0.01),
    "openvino-bf16": (3, 0.25),
    "tensorrt": (0, 0),
    "triton": (0, 0),
}

Load = Callable[[bytes], Backend]


@pytest.fixture(scope="module")
def networks() -> dict[str, bytes]:
    public, authority = (open_bundle(default_bundle(role)) for role in ("public", "authority"))
    key = Secret.from_key(read_key_file(authority.folder / "demo.key"))
    return {
        "protect": public.read("protect"),
        "attributes": public.read("attributes"),
        "restore": unseal_model(authority, key),
    }


@pytest.fixture(params=BOUNDS)
def other(request: pytest.FixtureRequest) -> str:
    if request.param.startswith("openvino"):
        openvino = pytest.importorskip("openvino")
    if request.param.endswith("bf16"):
        able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if "BF16" not in able:
            pytest.skip("this CPU does not compute in bf16")
    return request.param


@pytest.fixture
def load(other: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Loads a network in the backend; a server's, or a GPU's, is a fake that runs ONNX Runtime."""
    with ExitStack() as opened:

        def on_server(network: bytes) -> Backend:
            served = opened.enter_context(create_backend("ort-cpu", network, threads=2))
            entry = described(network)
            server = opened.enter_context(FakeTriton({"network": (entry, served.run)}))
            return TritonServer(url=server.url("grpc")).connect("network", manifest_of({"network": entry}))

        def on_gpu(network: bytes) -> Backend:
            """The network's own bytes are its plan."""
            computed = opened.enter_context(create_backend("ort-cpu", network, threads=2))
            batch = BatchProfile(min=1, opt=8, max=max(BATCHES))
            plans = {network: FakeNetwork(described(network), computed.run)}
            FakeGpu((batch.min, batch.opt, batch.max), plans).install(monkeypatch)
            about = sidecar(network, architectures=("9.0",), batch=batch)
            return TensorRtBackend(network, sidecar=about)

        loads: dict[str, Load] = {"triton": on_server, "tensorrt": on_gpu}
        yield loads.get(other, lambda network: create_backend(other, network, threads=2))


def described(network: bytes) -> ModelFile:
    """What a manifest would say of an ONNX file."""
    graph = onnx.load_model_from_string(network).graph
    inputs, outputs = (
        [
            tensor(
                value.name,
                *(axis.dim_value for axis in value.type.tensor_type.shape.dim[1:]),
                dtype=helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            )
            for value in values
        ]
        for values in (graph.input, graph.output)
    )
    return model(inputs, outputs)


def inputs_of(network: str, count: int) -> dict[str, NDArray]:
    rng = np.random.default_rng(count)
    inputs: dict[str, NDArray] = {"faces": synthetic_faces(count, 128)}
    if network == "protect":
        inputs["attributes"] = rng.integers(0, 2, (count, 13)).astype(np.float32)
        inputs["strength"] = rng.random((count, 1), np.float32)
        inputs["injection"] = rng.random((count, 1), np.float32)
    return inputs


@pytest.mark.parametrize("network", ["protect", "attributes", "restore"])
def test_backends_agree(other: str, load: Load, network: str, networks: dict[str, bytes]) -> None:
    with (
        create_backend("ort-cpu", networks[network], threads=2) as reference,
        load(networks[network]) as candidate,
    ):
        assert candidate.name == other
        largest, mean = BOUNDS[other]
        for count in BATCHES:
            inputs = inputs_of(network, count)
            expected, found = reference.run(inputs), candidate.run(inputs)
            assert expected.keys() == found.keys()
            for name, values in expected.items():
                assert found[name].dtype == values.dtype
                assert found[name].shape == values.shape
                difference = np.abs(found[name].astype(np.float64) - values)
                unit = 1 if values.dtype == np.uint8 else 1 / 100
                assert difference.max() <= largest * unit
                assert difference.mean() <= mean * unit


@pytest.fixture
def doubling(load: Load) -> Iterator[Backend]:
    vector = (TensorProto.FLOAT, ["n", 2])
    network = onnx_bytes(
        [helper.make_node("Add", ["a", "b"], ["sum"])], {"a": vector, "b": vector}, {"sum": vector}, {}
    )
    with load(network) as backend:
        yield backend


def test_the_contract_holds(doubling: Backend) -> None:
    assert isinstance(doubling, Backend)
    one = np.ones((3, 2), np.float32)
    first = doubling.run({"b": one, "a": one})["sum"]
    assert (doubling.run({"a": 2 * one, "b": one})["sum"] == 3).all()
    assert (first == 2).all(), "an answer must not change with the next call"
    with pytest.raises(BackendError, match=r"inputs are a, b; found a, c"):
        doubling.run({"a": one, "c": one})
    with pytest.raises(BackendError, match=r"as many rows of every input, at least [01], found \[1, 3\]"):
        doubling.run({"a": one, "b": one[:1]})
    if doubling.name == "ort-cpu":
        assert doubling.run({"a": one[:0], "b": one[:0]})["sum"].shape == (0, 2)
    else:
        with pytest.raises(BackendError, match=r"at least 1, found \[0\]"):
            doubling.run({"a": one[:0], "b": one[:0]})
    with pytest.raises(
        BackendError, match=rf"the network failed on {doubling.name}|'a' must be float32 \('N', 2\)"
    ):
        doubling.run({"a": np.ones((1, 3), np.float32), "b": np.ones((1, 2), np.float32)})
    doubling.close()
    doubling.close()
    with pytest.raises(BackendError, match="closed"):
        doubling.run({"a": one, "b": one})


def test_threads_share_a_network(doubling: Backend) -> None:
    ones = [np.full((1 + number % 4, 2), number, np.float32) for number in range(24)]
    with ThreadPoolExecutor(4) as pool:
        sums = pool.map(lambda values: doubling.run({"a": values[:, ::-1], "b": values})["sum"], ones)
    for values, found in zip(ones, sums, strict=True):
        np.testing.assert_array_equal(found, 2 * values)


@pytest.mark.parametrize("form", ["2x2", "3x3"])
@pytest.mark.parametrize("activation", ["Relu", "Tanh", "Sigmoid"])
def test_transposed_convolutions_are_replaced_exactly(form: SubpixelForm, activation: str) -> None:
    openvino = pytest.importorskip("openvino")
    rng = np.random.default_rng(0)

    def up(kernel: int) -> bytes:
        weights = {
            "w": rng.standard_normal((5, 3, kernel, kernel)).astype(np.float32),
            "b": rng.standard_normal(3).astype(np.float32),
        }
        pads = [(kernel - 2) // 2] * 4
        nodes = [
            helper.make_node("ConvTranspose", ["x", "w", "b"], ["up"], strides=[2, 2], pads=pads),
            helper.make_node(activation, ["up"], ["y"]),
        ]
        shapes = {"x": (TensorProto.FLOAT, ["n", 5, 6, 7])}, {"y": (TensorProto.FLOAT, ["n", 3, 12, 14])}
        return onnx_bytes(nodes, *shapes, weights)

    network = up(4)
    inputs = {"x": rng.standard_normal((3, 5, 6, 7)).astype(np.float32)}
    with (
        OpenVinoBackend(network, upsampling=None) as plain,
        OpenVinoBackend(network, upsampling=form) as rewritten,
    ):
        np.testing.assert_allclose(rewritten.run(inputs)["y"], plain.run(inputs)["y"], atol=1e-5)
    core = openvino.Core()
    assert replace_transposed(core.read_model(network), form) == 1
    assert replace_transposed(core.read_model(up(2)), form) == 0, "a 2x2 kernel is no case for it"


def test_openvino_refuses_a_broken_model() -> None:
    pytest.importorskip("openvino")
    with pytest.raises(BackendError, match="OpenVINO cannot load the network"):
        create_backend("openvino-fp32", b"no model")


def test_auto_takes_what_works_and_says_which(
    networks: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = inputs_of("attributes", 1)
    with create_backend(AUTO, networks["attributes"], threads=1) as backend:
        assert backend.name in AUTO_ORDER
        assert backend.run(inputs)["probabilities"].shape == (1, 13)
    monkeypatch.setattr("runtime.backends.AUTO_ORDER", ("ort-tensorrt", "ort-cpu"))
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with create_backend(AUTO, networks["attributes"], threads=1) as backend:
        assert backend.name == "ort-cpu"
