"""INT8: exact where eight bits are enough, verified in the graph, and never on disk."""

from __future__ import annotations

import tempfile

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from export.errors import PrecisionError
from export.onnx_graph import checked
from export.precision import SPECS, Precision, check_precision
from export.quantization import Activations, activation_ranges, not_quantized, quantize_int8, quantized_nodes
from export.quantized_moves import quantize_before_moves
from runtime.backends import AUTO, create_backend
from runtime.errors import BackendError

CHANNELS = 8
MOVES = ("DepthToSpace", "Slice", "Concat")
SHAPES = ((8, 3, 1, 1), (16, 8, 1, 1), (4, 8, 1, 1), (8, 8, 1, 1), (3, 8, 1, 1))


def chain() -> ModelProto:
    """A picture in, three convolutions of whole numbers, a picture out; the one in the middle is inner."""
    rng = np.random.default_rng(0)

    def whole(*shape: int) -> NDArray[np.float32]:
        weights = rng.integers(-3, 4, shape).astype(np.float32)
        weights[:, 0, 0, 0] = 127  # the largest of each output channel: the scale is 1
        return weights

    weights = {
        "first": np.abs(rng.integers(-1, 2, (CHANNELS, 3, 1, 1))).astype(np.float32),
        "inner": whole(CHANNELS, CHANNELS, 3, 3),
        "last": rng.integers(-1, 2, (3, CHANNELS, 1, 1)).astype(np.float32),
        "inner_bias": rng.integers(-9, 9, CHANNELS).astype(np.float32),
        "small": np.float32(1e-3),
    }
    nodes = [
        helper.make_node("Cast", ["picture"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "first"], ["a"], name="first"),
        helper.make_node("Conv", ["a", "inner", "inner_bias"], ["b"], name="inner", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["b", "last"], ["y"], name="last"),
        helper.make_node("Mul", ["y", "small"], ["dim"]),
        helper.make_node("Cast", ["dim"], ["result"], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("picture", TensorProto.UINT8, ["batch", 3, 6, 6])],
        [
            helper.make_tensor_value_info("result", TensorProto.UINT8, ["batch", 3, 6, 6]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, 6, 6]),
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {"terms": "none"})
    return checked(model)


def pictures() -> dict[str, NDArray]:
    """Whole numbers; the first layer adds some of them up to at most 255, and 255 occurs: the scale is 1."""
    picture = np.random.default_rng(1).integers(0, 86, (11, 3, 6, 6), dtype=np.uint8)
    picture[0, :, 0, 0] = 85
    return {"picture": picture}


def run(model: ModelProto, inputs: dict[str, NDArray]) -> NDArray:
    with create_backend("ort-cpu", model.SerializeToString()) as backend:
        return backend.run(inputs)["y"]


@pytest.mark.parametrize("activations", ["uint8", "int8"])
def test_whole_numbers_survive_exactly(activations: Activations) -> None:
    """Around zero half the steps are left: then the values are those up to 127, and the scale is 1 again."""
    model, inputs = chain(), pictures()
    assert activation_ranges(model, ["a"], inputs) == {"a": (0.0, 255.0)}
    if activations == "int8":
        inputs = {"picture": np.minimum(inputs["picture"], 42)}
        inputs["picture"][0, :, 0, 0] = (42, 42, 43)
        assert activation_ranges(model, ["a"], inputs) == {"a": (0.0, 127.0)}
    quantized = quantize_int8(model, inputs, activations)
    np.testing.assert_array_equal(run(quantized, inputs), run(model, inputs))


def test_a_value_beyond_the_range_is_clipped() -> None:
    """So the ranges are those of the calibration, and not of what comes later."""
    model, inputs = chain(), pictures()
    quantized = quantize_int8(model, {"picture": inputs["picture"] // 2})
    assert np.abs(run(quantized, inputs) - run(model, inputs)).max() > 100


@pytest.mark.parametrize(("precision", "kind"), [("int8", TensorProto.UINT8), ("int8-gpu", TensorProto.INT8)])
def test_only_what_the_inner_convolution_reads_is_quantised(precision: Precision, kind: int) -> None:
    model, activations = chain(), SPECS[precision].activations
    assert activations is not None
    assert [node.name for node in quantized_nodes(model)] == ["inner"]
    quantized = quantize_int8(model, pictures(), activations)
    pairs = [node for node in quantized.graph.node if node.op_type == "QuantizeLinear"]
    assert [node.input[0] for node in pairs] == ["a"]
    kinds = {tensor.name: tensor for tensor in quantized.graph.initializer}
    assert kinds[pairs[0].input[2]].data_type == kind
    weights = [tensor for tensor in quantized.graph.initializer if list(tensor.dims[2:]) == [3, 3]]
    assert [tensor.data_type for tensor in weights] == [TensorProto.INT8]
    around_zero = {"activations": "int8"} if precision == "int8-gpu" else {}
    assert {prop.key: prop.value for prop in quantized.metadata_props} == {"terms": "none"} | around_zero
    check_precision(quantized, precision)
    if precision == "int8-gpu":
        zero = numpy_helper.to_array(kinds[pairs[0].input[2]])
        assert zero == 0
        with pytest.raises(PrecisionError, match="asked for int8, but it was not delivered for: inner"):
            check_precision(quantized, "int8")


def test_what_is_quantised_around_zero_is_refused_by_openvino_and_passed_over_by_auto(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would be far off there."""
    pytest.importorskip("openvino")
    network = quantize_int8(chain(), pictures(), "int8").SerializeToString()
    with pytest.raises(BackendError, match="quantised around zero, for TensorRT, and far off in OpenVINO"):
        create_backend("openvino-fp32", network)
    monkeypatch.setattr("runtime.backends.AUTO_ORDER", ("openvino-fp32", "ort-cpu"))
    with create_backend(AUTO, network) as backend:
        assert backend.name == "ort-cpu"


def test_what_was_not_quantised_is_named() -> None:
    assert not_quantized(chain(), "uint8") == ["inner"]
    with pytest.raises(PrecisionError, match="asked for int8, but it was not delivered for: inner"):
        check_precision(chain(), "int8")


def test_nothing_inside_to_quantise_is_an_error() -> None:
    """Without the way out to a picture and the way in from one, nothing is first or last."""
    model = chain()
    inner = model.graph.node[2]
    model.graph.node.remove(inner)
    model.graph.node[2].input[0] = "a"
    with pytest.raises(PrecisionError, match="no convolution inside"):
        quantize_int8(model, pictures())
    with pytest.raises(PrecisionError, match="no convolution inside"):
        check_precision(model, "int8")


def test_an_inner_layer_of_few_channels_is_quantised_too() -> None:
    """First and last are told by the way through, not by the number of channels."""
    nodes = quantized_nodes(chain())
    assert [node.name for node in nodes] == ["inner"]
    model = chain()
    model.graph.node[0].CopyFrom(helper.make_node("Cast", ["picture"], ["elsewhere"], to=TensorProto.FLOAT))
    model.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 6, 6]))
    assert [node.name for node in quantized_nodes(model)] == ["first", "inner"]


def test_the_network_never_touches_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be the restorer. ONNX Runtime's own entry points save it more than once."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network is written to disk")

    for module, name in (
        (onnx, "save"),
        (onnx, "save_model"),
        (tempfile, "TemporaryDirectory"),
        (tempfile, "NamedTemporaryFile"),
        (tempfile, "mkstemp"),
        (tempfile, "mkdtemp"),
    ):
        monkeypatch.setattr(module, name, refuse)
    quantize_int8(chain(), pictures())


def test_values_are_quantised_before_they_are_moved() -> None:
    """A shuffle, a crop and a concatenation between two convolutions; all of them in uint8."""
    rng = np.random.default_rng(0)
    convolutions = {f"w{i}": rng.standard_normal(shape).astype(np.float32) for i, shape in enumerate(SHAPES)}
    nodes = [
        helper.make_node("Cast", ["picture"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "w0"], ["a"], name="first"),
        helper.make_node("Conv", ["a", "w1"], ["b"], name="second"),
        helper.make_node("DepthToSpace", ["b"], ["wide"], name="shuffle", blocksize=2),
        helper.make_node("Slice", ["wide", "one", "last", "axes"], ["cropped"], name="crop"),
        helper.make_node("Conv", ["a", "w2"], ["beside"], name="beside"),
        helper.make_node("Concat", ["cropped", "beside"], ["both"], name="concat", axis=1),
        helper.make_node("Conv", ["both", "w3"], ["c"], name="third"),
        helper.make_node("Conv", ["c", "w4"], ["y"], name="last"),
        helper.make_node("Cast", ["y"], ["result"], to=TensorProto.UINT8),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "moves",
            [helper.make_tensor_value_info("picture", TensorProto.UINT8, ["batch", 3, 4, 4])],
            [
                helper.make_tensor_value_info("result", TensorProto.UINT8, ["batch", 3, 4, 4]),
                helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, 4, 4]),
            ],
            [
                *(numpy_helper.from_array(value, name) for name, value in convolutions.items()),
                numpy_helper.from_array(np.array([2, 2]), "one"),
                numpy_helper.from_array(np.array([6, 6]), "last"),
                numpy_helper.from_array(np.array([2, 3]), "axes"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    inputs = {"picture": rng.integers(0, 256, (5, 3, 4, 4), dtype=np.uint8)}
    quantized = quantize_int8(checked(model), inputs)
    moved = quantize_before_moves(quantized)
    np.testing.assert_array_equal(run(moved, inputs), run(quantized, inputs))
    kinds = {value.name: value.type.tensor_type.elem_type for value in moved.graph.value_info}
    made = {node.op_type: kinds[node.output[0]] for node in moved.graph.node if node.op_type in MOVES}
    assert made == dict.fromkeys(MOVES, TensorProto.UINT8)
    assert not_quantized(moved, "uint8") == []
