"""What all work on pictures shares: a detector, some networks, and the way in and out of a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack

import numpy as np
from numpy.typing import NDArray

from . import geometry
from .backends import Backend, BackendFactory, Remote, create_backend
from .closing import Closing
from .detection import FaceDetector
from .errors import BackendError, BundleError, NoFaceError
from .manifest import Bundle, Manifest
from .paste import make_patch, make_replacement, paste
from .results import Face

ImageU8 = NDArray[np.uint8]

# Entered for the time of a stage: ``detect``, ``align``, ``network`` or ``paste``. ``nullcontext`` is one.
Watch = Callable[[str], AbstractContextManager[object]]


class FacePipeline(Closing):
    """What all work on pictures shares: a detector, some networks, and the way in and out of a picture."""

    def __init__(
        self,
        bundle: Bundle,
        models: Mapping[str, Callable[[], bytes]],
        *,
        backend: str | BackendFactory | Remote,
        threads: int | None,
        detector: FaceDetector | None,
        watch: Watch,
    ) -> None:
        self.manifest = bundle.manifest
        _check_template(bundle.manifest)
        self._watch = watch
        self._open = ExitStack()
        self._networks: dict[str, Backend] = {}
        with ExitStack() as opened:
            self._detector = opened.enter_context(
                detector or FaceDetector.from_bundle(bundle, threads=threads)
            )
            for name, read in models.items():
                if isinstance(backend, Remote):
                    network = backend.connect(name, bundle.manifest)
                elif isinstance(backend, str):
                    network = create_backend(backend, read(), threads=threads)
                else:
                    network = backend(name, read())
                self._networks[name] = opened.enter_context(network)
            self._open = opened.pop_all()

    @property
    def backend(self) -> str:
        """What runs the networks, such as ``ort-cpu``."""
        return ", ".join(sorted({network.name for network in self._networks.values()}))

    def _find(self, pixels: ImageU8) -> tuple[Face, ...]:
        with self._watch("detect"):
            faces = self._detector.detect(pixels)
        if not faces:
            raise NoFaceError(
                "no face was found in the picture; faces must be upright and turned to the camera, and small "
                "faces in large pictures are looked for only with a smaller min_face_px (--min-face)"
            )
        return faces

    def _align(self, pixels: ImageU8, faces: tuple[Face, ...]) -> tuple[ImageU8, list[NDArray[np.floating]]]:
        """Aligned crops uint8 ``(N, S, S, 3)`` and the transforms to them."""
        size = self.manifest.image_size
        with self._watch("align"):
            matrices = [geometry.crop_transform(face.landmarks, size) for face in faces]
            return np.stack([geometry.warp(pixels, matrix, (size, size)) for matrix in matrices]), matrices

    def _run(self, network: str, output: str, inputs: Mapping[str, NDArray]) -> NDArray:
        """One network over all faces, in as few calls as the manifest's largest batch allows."""
        count, step = len(inputs["faces"]), self.manifest.max_batch
        parts = []
        for start in range(0, count, step):
            batch = {name: values[start : start + step] for name, values in inputs.items()}
            with self._watch("network"):
                outputs = self._networks[network].run(batch)
            if output not in outputs:
                raise BackendError(
                    f"the network {network!r} gave no output {output!r} (it gave: {', '.join(outputs)})"
                )
            parts.append(outputs[output])
        return np.concatenate(parts)

    def _paste(
        self,
        pixels: ImageU8,
        crops: ImageU8,
        outputs: NDArray,
        matrices: list[NDArray[np.floating]],
        *,
        replace: bool = False,
    ) -> ImageU8:
        """The picture with the faces' change added to it or, with ``replace``, with the faces themselves."""
        if outputs.dtype != np.uint8 or outputs.shape != crops.shape:
            raise BackendError(
                f"expected faces uint8 {crops.shape} of the network, found {outputs.dtype} {outputs.shape}"
            )
        with self._watch("paste"):
            patches = [
                make_replacement(pixels, output, matrix)
                if replace
                else make_patch(crop, output, matrix, (pixels.shape[0], pixels.shape[1]))
                for crop, output, matrix in zip(crops, outputs, matrices, strict=True)
            ]
            return paste(pixels, [patch for patch in patches if patch is not None])

    def close(self) -> None:
        """Closes the detector and the networks."""
        self._open.close()


def _check_template(manifest: Manifest) -> None:
    found = np.array(manifest.crop_template, dtype=np.float64)
    expected = geometry.CROP_TEMPLATE
    if found.shape != expected.shape or not np.abs(found - expected).max() <= 1e-6:
        raise BundleError(
            "the bundle's networks were trained with another face alignment (crop_template) than this "
            "program's; update erasablemask or export the bundle again"
        )


def mean_change(crop: ImageU8, output: ImageU8) -> float:
    """Mean absolute difference of a network's face and the one it got, in levels."""
    return float(np.abs(output.astype(np.int16) - crop).mean())
