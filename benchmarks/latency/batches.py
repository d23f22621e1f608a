"""The networks of a bundle alone, by batch, in every backend."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime import geometry
from runtime.backends import Backend, create_backend
from runtime.detection import FaceDetector
from runtime.manifest import Bundle
from runtime.pictures import read_picture

from .networks import compare
from .onnx_flops import flops_per_face
from .programs import Inputs, Program
from .verbs import Verb

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
    verbs: Sequence[Verb],
    *,
    batches: Sequence[int],
    threads: int,
    rounds: int,
) -> dict[str, Any]:
    """Each verb's network alone, from the smallest to the largest batch, in turns; by the verb's name."""
    networks = {}
    for verb in verbs:
        model = verb.network
        with ExitStack() as stack:
            programs = [
                _program(stack.enter_context(create_backend(backend, model, threads=threads)))
                for backend in backends
            ]
            rows = compare(programs, verb.inputs(faces), batches, rounds=rounds, calls=CALLS)
        networks[verb.name] = {"flops_per_face": flops_per_face(model), "programs": rows}
    return networks


def _program(backend: Backend) -> Program:
    def run(inputs: Inputs) -> NDArray:
        (output,) = backend.run(inputs).values()
        return output

    return Program(name=backend.name, run=run)
