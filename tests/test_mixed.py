"""Mixed precision: half inside, float32 where the picture would show it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import ModelProto, TensorProto
from torch import nn

from export.errors import PrecisionError
from export.faces import synthetic_faces
from export.mixed import computing_in, to_fp16
from export.onnx_graph import to_onnx
from export.precision import SPECS, Precision, check_precision
from export.rewrites import fold_batch_norms, to_subpixel
from export.wrappers import RestoreExport
from runtime.backends import create_backend
from training.networks import Restorer


def restorer() -> RestoreExport:
    torch.manual_seed(0)
    return RestoreExport(Restorer(width=8, depth=3, shortcut_layers=1)).eval()


def exported(precision: Precision) -> ModelProto:
    spec = SPECS[precision]
    module = fold_batch_norms(restorer())
    if spec.upsampling is not None:
        module = computing_in(to_subpixel(module, spec.upsampling), spec.dtype)
    faces = torch.from_numpy(synthetic_faces(2, 32))
    model = to_onnx(module, {"faces": faces}, ["restored"], metadata={"terms": "none"}, opset=spec.opset)
    return to_fp16(model) if precision == "fp16-mixed" else model


@pytest.mark.parametrize("precision", ["fp16-mixed", "bf16-mixed"])
def test_the_graph_computes_in_half_but_for_the_picture(precision: Precision) -> None:
    model = exported(precision)
    check_precision(model, precision)
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    half = TensorProto.FLOAT16 if precision == "fp16-mixed" else TensorProto.BFLOAT16
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "Relu", "LeakyRelu"):
            assert kinds[node.output[0]] == half
        if node.op_type in ("Tanh", "Round", "Clip", "Div"):
            assert kinds[node.output[0]] == TensorProto.FLOAT
    assert {value.type.tensor_type.elem_type for value in model.graph.output} == {TensorProto.UINT8}
    assert {prop.key: prop.value for prop in model.metadata_props} == {"terms": "none"}


def test_float16_is_close_to_what_was_trained() -> None:
    faces = synthetic_faces(3, 32)
    with torch.inference_mode():
        trained = restorer()(torch.from_numpy(faces)).numpy()
    with create_backend("ort-cpu", exported("fp16-mixed").SerializeToString()) as backend:
        half = backend.run({"faces": faces})["restored"]
    difference = np.abs(half.astype(int) - trained)
    assert 0 < difference.max() <= 2


def test_bfloat16_is_close_and_the_original_untouched() -> None:
    module = restorer()
    faces = torch.from_numpy(synthetic_faces(3, 32))
    with torch.inference_mode():
        before = module(faces)
        half = computing_in(fold_batch_norms(module), torch.bfloat16)(faces)
        assert torch.equal(module(faces), before)
    difference = np.abs(half.numpy().astype(int) - before.numpy())
    assert 0 < difference.max() <= 3
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_a_weight_that_does_not_fit_is_an_error() -> None:
    module = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Tanh()).eval()
    nn.init.constant_(module[0].weight, 1e5)
    with pytest.raises(PrecisionError, match=r"these weights do not fit torch.float16: 0\.weight"):
        computing_in(module, torch.float16)
    computing_in(module, torch.bfloat16)
