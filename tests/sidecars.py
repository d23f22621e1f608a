"""A plan's description for the tests to start from."""

from __future__ import annotations

import dataclasses
from typing import Any

from runtime.engine_sidecar import BatchProfile, EngineSidecar
from runtime.manifest import sha256_of

ONNX = b"a network"


def sidecar(plan: bytes, **changes: Any) -> EngineSidecar:
    """Of a plan of ``ONNX`` by TensorRT 10.3 for two architectures, with some fields changed."""
    return dataclasses.replace(
        EngineSidecar(
            onnx_sha256=sha256_of(ONNX),
            plan_sha256=sha256_of(plan),
            flavour="tensorrt",
            flavour_version="10.3.0",
            cuda_version="12.4",
            architectures=("8.6", "8.9"),
            hardware_compatible=False,
            version_compatible=False,
            batch=BatchProfile(min=1, opt=8, max=32),
            precision="fp16",
            build_s=41.25,
        ),
        **changes,
    )
