"""From a picture to a protected or a restored picture: detect, align, network, paste back."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial

import numpy as np
from numpy.typing import NDArray

from .backends import DEFAULT_BACKEND, BackendFactory, Remote
from .detection import FaceDetector
from .errors import BackendError, BundleError
from .face_pipeline import FacePipeline, ImageU8, Watch, mean_change
from .knobs import Knobs, resolve_knobs
from .manifest import Bundle
from .results import EraseResult, FaceReport, ProtectResult


class Protector(FacePipeline):
    """Protects every face of a picture. A context manager; several threads may use it at once.

    Args:
        bundle: a public bundle, see ``open_bundle``; an authority's does not hold these networks.
        backend: name of a backend, see ``runtime.backends``, a function that makes one of a network's
            name and bytes, or a ``TritonServer``, with which the bundle need not hold the networks' files.
            The detector, three small networks over images of changing size, stays on the CPU.
        threads: CPU threads inside one operation, ``None`` for the backend's choice.
        detector: used, and closed, instead of the bundle's.
        watch: entered with a stage's name for its time, as by a clock.

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
        watch: Watch = nullcontext,
    ) -> None:
        super().__init__(
            bundle,
            {name: partial(bundle.read, name) for name in ("protect", "attributes")},
            backend=backend,
            threads=threads,
            detector=detector,
            watch=watch,
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
                mean_change=mean_change(crop, output),
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


class Eraser(FacePipeline):
    """Erases the protection of every face: the trusted authority's half. A context manager.

    Args:
        bundle: the authority's bundle.
        restore_model: the restorer's ONNX bytes, see ``runtime.authority.unseal_model``; None for a
            ``TritonServer``, which has its own.
        backend, threads, detector, watch: as of ``Protector``.

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
        watch: Watch = nullcontext,
    ) -> None:
        if bundle.manifest.role != "authority":
            raise BundleError(f"{bundle.folder} is a public bundle: only an authority's bundle can erase")
        super().__init__(
            bundle,
            {"restore": partial(_given, restore_model)},
            backend=backend,
            threads=threads,
            detector=detector,
            watch=watch,
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
            FaceReport(face=face, mean_change=mean_change(crop, output))
            for face, crop, output in zip(faces, crops, outputs, strict=True)
        )
        return EraseResult(pixels=restored, faces=reports)


def _given(model: bytes | None) -> bytes:
    if model is None:
        raise BackendError("expected the restorer's bytes, which only a server has of itself; found none")
    return model
