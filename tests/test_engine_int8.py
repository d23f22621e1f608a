"""INT8 in a plan: built by TensorRT-RTX, and verified on what the inner convolutions read."""

from __future__ import annotations

import pytest

from export.engine import build_engine
from export.errors import PrecisionError
from export.quantization import quantize_int8

from .test_quantization import chain, pictures

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed (extra dev)")
from .test_engine import RTX, convolution


def test_int8_is_verified_on_what_the_inner_convolutions_read() -> None:
    model = chain()
    quantized = quantize_int8(model, pictures(), "int8").SerializeToString()
    assert build_engine(quantized, precision="int8", options=RTX).sidecar.precision == "int8"
    message = r"asked for int8, that is INT8, but 1 of 1 convolutions have other types: inner \(FLOAT\)"
    with pytest.raises(PrecisionError, match=message):
        build_engine(model.SerializeToString(), precision="int8", options=RTX)
    with pytest.raises(PrecisionError, match="no convolution inside to verify it on"):
        build_engine(convolution(), precision="int8", options=RTX)
