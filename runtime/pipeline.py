"""From a picture to a protected or a restored picture: detect, align, network, paste back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

import numpy as np
from numpy.typing import NDArray

from . import geometry
from .backends import DEFAULT_BACKEND, Backend, BackendFactory, Remote, create_backend
from .closing import Closing
from .detection import FaceDetector
from .errors import BackendError, BundleError, NoFaceError
from .knobs import Knobs, resolve_knobs
from .manifest import Bundle, Manifest
from .paste import make_patch, paste
from .results import EraseResult, Face, FaceReport, ProtectResult

ImageU8 = NDArray[np.uint8]

logger = logging.getLogger(__name__)


class _FacePipeline(Closing):
    """What protecting and erasing share: a detector, some networks, and the way in and out of a picture."""

    def __init__(
        self,
        bundle: Bundle,
        models: Mapping[str, Callable[[], bytes]],
        *,
        backend: str | BackendFactory | Remote,
        threads: int | None,
        detector: FaceDetector | None,
    ) -> None:
        self.manifest = bundle.manifest
        _check_template(bundle.manifest)
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
        matrices = [geometry.crop_transform(face.landmarks, size) for face in faces]
        return np.stack([geometry.warp(pixels, matrix, (size, size)) for matrix in matrices]), matrices

    def _run(self, network: str, output: str, inputs: Mapping[str, NDArray]) -> NDArray:
        """One network over all faces, in as few calls as the manifest's largest batch allows."""
        count, step = len(inputs["faces"]), self.manifest.max_batch
        parts = []
        for start in range(0, count, step):
            batch = {name: values[start : start + step] for name, values in inputs.items()}
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
    ) -> ImageU8:
        if outputs.dtype != np.uint8 or outputs.shape != crops.shape:
            raise BackendError(
                f"expected faces uint8 {crops.shape} of the network, found {outputs.dtype} {outputs.shape}"
            )
        patches = [
            make_patch(crop, output, matrix, (pixels.shape[0], pixels.shape[1]))
            for crop, output, matrix in zip(crops, outputs, matrices, strict=True)
        ]
        return paste(pixels, [patch for patch in patches if patch is not None])

    def close(self) -> None:
        """Closes the detector and the networks."""
        self._open.close()


class Protector(_FacePipeline):
    """Protects every face of a picture. A context manager; several threads may use it at once.

    Args:
        bundle: a public bundle, see ``open_bundle``; an authority's does not hold these networks.
        backend: name of a backend, see ``runtime.backends``, a function that makes one of a network's
            name and bytes, or a ``TritonServer``, with which the bundle need not hold the networks' files.
            The detector, three small networks over images of changing size, stays on the CPU.
        threads: CPU threads inside one operation, ``None`` for the backend's choice.
        detector: used, and closed, instead of the bundle's.

    Raises:
        BundleError: a network is missing or was changed, or the bundle's alignment is not this program's.
        BackendError: the backend cannot be had or cannot load a network.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        backend: str | BackendFactory | Remote = DEFAULT_BACKEND,
        threads: int | None = None,
        detector: FaceDetector | None = None,
    ) -> None:
        super().__init__(
            bundle,
            {name: partial(bundle.read, name) for name in ("protect", "attributes")},
            backend=backend,
            threads=threads,
            detector=detector,
        )

    def protect(
        self,
        pixels: ImageU8,
        *,
        attributes: Mapping[str, int] | None = None,
        strength: float | None = None,
        injection: float | None = None,
    ) -> ProtectResult:
        """Protects every face.

        Args:
            pixels: uint8 ``(H, W, 3)`` RGB, upright; not changed.
            attributes: edits, 0 or 1 by name, for every face; an attribute not named stays the face's own.
            strength: share of the perturbation (Eq. 6, ``1 - beta``) in (0, 1], ``None`` for the bundle's.
            injection: weight of the clean branch (gamma) in [0, 1), ``None`` for the bundle's.

        Returns:
            The picture with every face protected. Outside the faces' masks it is bit-identical.

        Raises:
            ErasableMaskError: a knob is not in [0, 1] or would protect nothing, or an attribute is unknown
                or neither 0 nor 1.
            NoFaceError: no face was found.
            BackendError: a network failed.
        """
        knobs = self.check_knobs(attributes=attributes, strength=strength, injection=injection)
        faces = self._find(pixels)
        crops, matrices = self._align(pixels, faces)
        wanted = self._attributes(crops, knobs.attributes)
        column = np.ones((len(faces), 1), np.float32)
        outputs = self._run(
            "protect",
            "protected",
            {
                "faces": crops,
                "attributes": wanted,
                "strength": column * np.float32(knobs.strength),
                "injection": column * np.float32(knobs.injection),
            },
        )
        protected = self._paste(pixels, crops, outputs, matrices)
        reports = tuple(
            FaceReport(
                face=face,
                mean_change=_mean_change(crop, output),
                attributes=dict(zip(self.manifest.attributes, map(int, row), strict=True)),
            )
            for face, crop, output, row in zip(faces, crops, outputs, wanted, strict=True)
        )
        return ProtectResult(
            pixels=protected, faces=reports, strength=knobs.strength, injection=knobs.injection
        )

    def check_knobs(
        self,
        *,
        attributes: Mapping[str, int] | None = None,
        strength: float | None = None,
        injection: float | None = None,
    ) -> Knobs:
        """The knobs of ``protect`` with the bundle's defaults filled in.

        Raises:
            ErasableMaskError: as of ``protect``.
        """
        return resolve_knobs(self.manifest, attributes=attributes, strength=strength, injection=injection)

    def _attributes(self, crops: ImageU8, edits: Mapping[str, int]) -> NDArray[np.float32]:
        """The attribute vectors ``(N, n)`` of 0 and 1: the faces' own, with the edits applied."""
        names = self.manifest.attributes
        if len(edits) == len(names):
            wanted = np.zeros((len(crops), len(names)), np.float32)
        else:
            probabilities = self._run("attributes", "probabilities", {"faces": crops})
            if probabilities.shape != (len(crops), len(names)):
                raise BackendError(
                    f"expected probabilities {(len(crops), len(names))} of the network 'attributes', "
                    f"found {probabilities.shape}"
                )
            wanted = (probabilities >= 0.5).astype(np.float32)
        for name, value in edits.items():
            wanted[:, names.index(name)] = value
        return wanted


class Eraser(_FacePipeline):
    """Erases the protection of every face: the trusted authority's half. A context manager.

    Args:
        bundle: the authority's bundle.
        restore_model: the restorer's ONNX bytes, see ``runtime.authority.unseal_model``; None for a
            ``TritonServer``, which has its own.
        backend, threads, detector: as of ``Protector``.

    Raises:
        BundleError: the bundle is not an authority's, a network is missing or was changed, or the bundle's
            alignment is not this program's.
        BackendError: the backend cannot be had or cannot load a network, or lacks its bytes.
    """

    def __init__(
        self,
        bundle: Bundle,
        restore_model: bytes | None = None,
        *,
        backend: str | BackendFactory | Remote = DEFAULT_BACKEND,
        threads: int | None = None,
        detector: FaceDetector | None = None,
    ) -> None:
        if bundle.manifest.role != "authority":
            raise BundleError(f"{bundle.folder} is a public bundle: only an authority's bundle can erase")
        super().__init__(
            bundle,
            {"restore": partial(_given, restore_model)},
            backend=backend,
            threads=threads,
            detector=detector,
        )

    def erase(self, pixels: ImageU8) -> EraseResult:
        """Restores every face.

        Args:
            pixels: uint8 ``(H, W, 3)`` RGB, upright: a protected picture, as it was published.

        Raises:
            NoFaceError: no face was found.
            BackendError: the network failed.
        """
        faces = self._find(pixels)
        crops, matrices = self._align(pixels, faces)
        outputs = self._run("restore", "restored", {"faces": crops})
        restored = self._paste(pixels, crops, outputs, matrices)
        reports = tuple(
            FaceReport(face=face, mean_change=_mean_change(crop, output))
            for face, crop, output in zip(faces, crops, outputs, strict=True)
        )
        return EraseResult(pixels=restored, faces=reports)


def _check_template(manifest: Manifest) -> None:
    found = np.array(manifest.crop_template, dtype=np.float64)
    expected = geometry.CROP_TEMPLATE
    if found.shape != expected.shape or not np.abs(found - expected).max() <= 1e-6:
        raise BundleError(
            "the bundle's networks were trained with another face alignment (crop_template) than this "
            "program's; update erasablemask or export the bundle again"
        )


def _given(model: bytes | None) -> bytes:
    if model is None:
        raise BackendError("expected the restorer's bytes, which only a server has of itself; found none")
    return model


def _mean_change(crop: ImageU8, output: ImageU8) -> float:
    return float(np.abs(output.astype(np.int16) - crop).mean())
