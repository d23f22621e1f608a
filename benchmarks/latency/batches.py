"""The networks of a bundle alone, by batch, in every backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime import geometry
from runtime.backends import create_backend
from runtime.detection import FaceDetector
from runtime.manifest import Bundle
from runtime.pictures import read_picture

from .bundles import Bundles
from .networks import compare
from .onnx_flops import flops_per_face
from .programs import Program

CALLS = 3


def aligned_faces(path: Path, bundle: Bundle, count: int) -> NDArray[np.uint8]:
    """``count`` times the first face of a picture as the networks get it, ``(count, S, S, 3)``."""
    pixels, size = read_picture(path).pixels, bundle.manifest.image_size
    with FaceDetector.from_bundle(bundle) as detector:
        face = detector.detect(pixels)[0]
    crop = geometry.warp(pixels, geometry.crop_transform(face.landmarks, size), (size, size))
    return np.repeat(crop[None], count, axis=0)


def sweep(
    faces: NDArray[np.uint8],
    backends: Sequence[str],
    bundles: Bundles,
    *,
    batches: Sequence[int],
    threads: int,
    rounds: int,
) -> dict[str, Any]:
    """Both networks alone, from the smallest to the largest batch, in turns."""
    manifest, count = bundles.public.manifest, len(faces)
    column = np.ones((count, 1), np.float32)
    knobs = {
        "attributes": np.zeros((count, len(manifest.attributes)), np.float32),
        "strength": column * np.float32(manifest.strength),
        "injection": column * np.float32(manifest.injection),
    }
    networks = {}
    for verb, inputs in {"protect": {"faces": faces, **knobs}, "erase": {"faces": faces}}.items():
        model = bundles.network(verb)
        with ExitStack() as stack:
            programs = []
            for backend in backends:
                opened = stack.enter_context(create_backend(backend, model, threads=threads))
                programs.append(Program(name=backend, run=lambda given, o=opened: _only(o.run(given))))
            rows = compare(programs, inputs, batches, rounds=rounds, calls=CALLS)
        networks[verb] = {"flops_per_face": flops_per_face(model), "programs": rows}
    return networks


def _only(outputs: Mapping[str, NDArray]) -> NDArray:
    (output,) = outputs.values()
    return output
