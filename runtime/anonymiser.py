"""From a picture to an anonymised one: whole faces replaced, with noise that is never used again."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import numpy as np

from .backends import DEFAULT_BACKEND, BackendFactory, Remote, check_full_precision
from .detection import FaceDetector
from .errors import BundleError, ErasableMaskError
from .face_pipeline import FacePipeline, ImageU8, Watch, mean_change
from .knobs import share
from .manifest import Bundle, Manifest
from .noise import Normal, fresh_normal
from .results import AnonymiseResult, FaceReport

NETWORK = "anonymise"
# The network's inputs that are noise.
NOISES = ("grain", "shade")


class Anonymiser(FacePipeline):
    """Anonymises every face of a picture. A context manager; several threads may use it at once.

    Args:
        bundle: a bundle of the anonymiser, see ``open_bundle``.
        backend: name of a backend, see ``runtime.backends``, or a function that makes one of a network's name
            and bytes, or a ``TritonServer``, to which the noise goes with the faces. A name must be one of
            ``FULL_PRECISION``.
        threads, detector, watch: as of ``Protector``.
        normal: where the noise comes from; another than the default is for tests, and must not depend on the
            picture.

    Raises:
        BundleError: the bundle is not the anonymiser's, a network is missing or was changed, or the bundle's
            alignment is not this program's.
        BackendError: the backend cannot be had or cannot load a network, or was not compared.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        backend: str | BackendFactory | Remote = DEFAULT_BACKEND,
        threads: int | None = None,
        detector: FaceDetector | None = None,
        watch: Watch = nullcontext,
        normal: Normal = fresh_normal,
    ) -> None:
        check_anonymiser(bundle)
        if isinstance(backend, str):
            check_full_precision(backend)
        self._shapes = noise_shapes(bundle.manifest)
        self._normal = normal
        super().__init__(
            bundle,
            {NETWORK: partial(bundle.read, NETWORK)},
            backend=backend,
            threads=threads,
            detector=detector,
            watch=watch,
        )

    def anonymise(self, pixels: ImageU8, *, strength: float | None = None) -> AnonymiseResult:
        """Replaces every face by one painted from what is left of it and from fresh noise.

        Twice the same picture gives two different results.

        Args:
            pixels: uint8 ``(H, W, 3)`` RGB, upright; not changed.
            strength: of the noise that is injected, in (0, 1], ``None`` for the bundle's.

        Returns:
            The picture with every face replaced. Outside the faces' masks it is bit-identical.

        Raises:
            ErasableMaskError: the strength is not in (0, 1].
            NoFaceError: no face was found.
            BackendError: the network failed.
        """
        strength = self.check_strength(strength)
        faces = self._find(pixels)
        crops, matrices = self._align(pixels, faces)
        count = len(faces)
        outputs = self._run(
            NETWORK,
            "anonymised",
            {
                "faces": crops,
                **{name: self._normal((count, *shape)) for name, shape in self._shapes.items()},
                "strength": np.full((count, 1), strength, np.float32),
            },
        )
        anonymised = self._paste(pixels, crops, outputs, matrices, replace=True)
        reports = tuple(
            FaceReport(face=face, mean_change=mean_change(crop, output))
            for face, crop, output in zip(faces, crops, outputs, strict=True)
        )
        return AnonymiseResult(pixels=anonymised, faces=reports, strength=strength)

    def check_strength(self, strength: float | None) -> float:
        """The strength of ``anonymise``, the bundle's for ``None``.

        Raises:
            ErasableMaskError: it is not in (0, 1].
        """
        strength = share("strength", self.manifest.strength if strength is None else strength)
        if strength == 0:
            raise ErasableMaskError("no noise would be injected with strength 0; set a strength above 0")
        return strength


def check_anonymiser(bundle: Bundle) -> None:
    """Refuses a bundle of another system.

    Raises:
        BundleError: it is not the anonymiser's.
    """
    if bundle.manifest.system != "anonymiser":
        raise BundleError(
            f"expected a bundle of the anonymiser in {bundle.folder}, found one of the "
            f"{bundle.manifest.system}; export one: python -m export.build --system anonymiser ..."
        )


def noise_shapes(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Of one face's noise, by the input's name.

    Raises:
        BundleError: the manifest does not say.
    """
    model = manifest.models.get(NETWORK)
    found = {spec.name: spec.shape[1:] for spec in model.inputs} if model else {}
    if missing := [name for name in NOISES if name not in found]:
        raise BundleError(
            f"expected the inputs {' and '.join(NOISES)} of {NETWORK!r} in the manifest, found no "
            f"{' and no '.join(missing)}; export the bundle again"
        )
    return {name: found[name] for name in NOISES}
