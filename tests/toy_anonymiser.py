"""An anonymiser's bundle whose network is arithmetic, for the tests."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from runtime.manifest import Bundle, TensorSpec

from .conftest import CROP_PX, FACES, MakeBundle, onnx_bytes

CELLS = 4
FLAT = 128
INPUTS = (
    TensorSpec(name="faces", dtype="uint8", shape=(-1, CROP_PX, CROP_PX, 3)),
    TensorSpec(name="grain", dtype="float32", shape=(-1, 1, CROP_PX, CROP_PX)),
    TensorSpec(name="shade", dtype="float32", shape=(-1, 3, CELLS, CELLS)),
    TensorSpec(name="strength", dtype="float32", shape=(-1, 1)),
)
OUTPUTS = (TensorSpec(name="anonymised", dtype="uint8", shape=(-1, CROP_PX, CROP_PX, 3)),)


def anonymise_bytes() -> bytes:
    """``anonymised = clip(FLAT + 100 (mean(shade) + 10 strength mean(grain)))``, whatever the face."""
    return onnx_bytes(
        [
            helper.make_node("Cast", ["faces"], ["x"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["x", "zero"], ["zeros"]),
            helper.make_node("ReduceMean", ["shade", "axes"], ["light"], keepdims=1),
            helper.make_node("ReduceMean", ["grain", "axes"], ["mean"], keepdims=1),
            helper.make_node("Unsqueeze", ["strength", "last"], ["strength4"]),
            helper.make_node("Mul", ["mean", "strength4"], ["scaled"]),
            helper.make_node("Mul", ["scaled", "ten"], ["grains"]),
            helper.make_node("Add", ["light", "grains"], ["noise"]),
            helper.make_node("Mul", ["noise", "gain"], ["levels"]),
            helper.make_node("Add", ["levels", "flat"], ["face"]),
            helper.make_node("Add", ["zeros", "face"], ["sum"]),
            helper.make_node("Clip", ["sum", "low", "high"], ["clipped"]),
            helper.make_node("Cast", ["clipped"], ["anonymised"], to=TensorProto.UINT8),
        ],
        {
            "faces": FACES,
            **{spec.name: (TensorProto.FLOAT, ["n", *spec.shape[1:]]) for spec in INPUTS[1:]},
        },
        {"anonymised": FACES},
        {
            "zero": np.float32(0),
            "axes": np.array([1, 2, 3]),
            "last": np.array([2, 3]),
            "ten": np.float32(10),
            "gain": np.float32(100),
            "flat": np.float32(FLAT),
            "low": np.float32(0),
            "high": np.float32(255),
        },
    )


def toy_anonymiser(make_bundle: MakeBundle, **fields) -> Bundle:
    """The bundle; ``fields`` of its manifest."""
    fields = {"system": "anonymiser", "attributes": (), "injection": 0.0, "strength": 0.5, **fields}
    return make_bundle(
        models={"anonymise": anonymise_bytes()},
        drop=("protect", "attributes"),
        inputs={"anonymise": INPUTS},
        outputs={"anonymise": OUTPUTS},
        **fields,
    )
