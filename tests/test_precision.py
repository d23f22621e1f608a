"""Precision is what the graph holds, not what was asked for; and the gate that judges its cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from export.errors import ParityError, PrecisionError
from export.parity import BOUNDS, compare, gate
from export.precision import PRECISIONS, Precision, check_precision, store_fp16
from runtime import manifest_checks


def test_a_manifest_may_name_what_export_makes_and_nothing_else() -> None:
    assert manifest_checks.PRECISIONS == PRECISIONS


def linear(scale: float = 1.0) -> ModelProto:
    """``y = x W + b`` with W ``(32, 16)``, large enough to be reduced, and b ``(16,)``, which is not."""
    rng = np.random.default_rng(0)
    weights = {"W": scale * rng.normal(size=(32, 16)), "b": rng.normal(size=16)}
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "W"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 16])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(model: ModelProto, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def test_weights_are_stored_in_half_and_computed_in_single() -> None:
    """The result is, to float32's rounding, that of weights rounded to float16 in a float32 product."""
    model = linear()
    stored = store_fp16(model)
    check_precision(stored, "fp16")
    kinds = {tensor.name: tensor.data_type for tensor in stored.graph.initializer}
    assert kinds == {"W.fp16": TensorProto.FLOAT16, "b": TensorProto.FLOAT}
    weight, bias = (numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    x = np.random.default_rng(1).normal(size=(3, 32)).astype(np.float32)
    expected = x @ weight.astype(np.float16).astype(np.float32) + bias
    np.testing.assert_allclose(run(stored, x), expected, atol=1e-5)
    assert [tensor.data_type for tensor in model.graph.initializer] == [TensorProto.FLOAT] * 2


def test_onnx_runtime_folds_the_casts_when_it_loads(tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    ort.InferenceSession(
        store_fp16(linear()).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    optimized = onnx.load(tmp_path / "optimized.onnx").graph
    assert "Cast" not in {node.op_type for node in optimized.node}
    assert TensorProto.FLOAT16 not in {tensor.data_type for tensor in optimized.initializer}


@pytest.mark.parametrize("value", [7e4, -7e4, np.inf, np.nan])
def test_a_weight_outside_of_float16_is_an_error(value: float) -> None:
    model = linear()
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[3, 4] = value
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "W"))
    with pytest.raises(PrecisionError, match=r"the weight 'W' does not fit float16: .* within \+-65504"):
        store_fp16(model)


def test_a_precision_that_was_not_delivered_is_an_error() -> None:
    with pytest.raises(PrecisionError, match="asked for fp16, but it was not delivered for: W"):
        check_precision(linear(), "fp16")
    with pytest.raises(PrecisionError, match=r"asked for fp32, but it was not delivered for: W\.fp16"):
        check_precision(store_fp16(linear()), "fp32")
    with pytest.raises(PrecisionError, match=r"asked for fp16-mixed, .* delivered for: W\.fp16"):
        check_precision(store_fp16(linear()), "fp16-mixed")
    with pytest.raises(PrecisionError, match=r"asked for bf16-mixed, .* delivered for: W\.fp16, W\.fp16"):
        check_precision(store_fp16(linear()), "bf16-mixed")


def test_fp16_of_a_graph_without_large_weights_is_an_error() -> None:
    model = linear()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((4, 4), np.float32), "W"))
    with pytest.raises(PrecisionError, match="no weight has 256 elements or more"):
        check_precision(model, "fp16")


def test_compare_counts_levels() -> None:
    """1000 values: one is off by 3, nine by 1; mean (3 + 9) / 1000, 99.9th percentile between 1 and 3."""
    expected = np.full((1, 1000), 100, np.uint8)
    found = expected.copy()
    found[0, :9] = 99
    found[0, 9] = 103
    parity = compare("protect", [expected], [found])
    assert (parity.max, parity.mean, parity.within_one, parity.faces) == (3.0, 0.012, 0.999, 1)
    assert 1.0 <= parity.p999 <= 3.0


def test_the_gate_names_every_bound_that_is_broken() -> None:
    expected = np.zeros((1, 1000), np.uint8)
    found = expected.copy()
    found[0, :2] = 9
    with pytest.raises(
        ParityError, match=r"largest difference 9, allowed 2; share within one level 0\.99800"
    ):
        gate(compare("protect", [expected], [found]), "fp32")


def test_the_gate_judges_probabilities_by_their_own_bound() -> None:
    expected = np.zeros((2, 3), np.float32)
    parity = compare("attributes", [expected], [expected + np.float32(0.005)])
    assert parity.within_one is None
    gate(parity, "fp16")
    with pytest.raises(
        ParityError, match="attributes is not the network it was made from, by the bounds of fp32 on 2 faces"
    ):
        gate(parity, "fp32")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_precision_may_cost_more_than_the_project_promises(precision: Precision) -> None:
    """At most one level of difference for 99.9 % of the values, for 95 and 85 % in int8."""
    assert BOUNDS[precision].within_one >= {"int8": 0.95, "int8-gpu": 0.85}.get(precision, 0.999)


def test_compare_refuses_other_shapes_and_nan() -> None:
    with pytest.raises(ParityError, match="expected the outputs"):
        compare("protect", [np.zeros((1, 2), np.uint8)], [np.zeros((1, 3), np.uint8)])
    with pytest.raises(ParityError, match="finite"):
        compare("attributes", [np.zeros(2, np.float32)], [np.array([0, np.nan], np.float32)])
