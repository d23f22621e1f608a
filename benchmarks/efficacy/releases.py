"""An anonymiser's releases: of photos as files, and of aligned faces as an attacker makes them.

The noise is seeded, so that a measurement can be made again; ``runtime`` never does that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from runtime.anonymiser import NETWORK, Anonymiser, check_anonymiser, noise_shapes
from runtime.backends import DEFAULT_BACKEND, BackendFactory, create_backend
from runtime.detection import FaceDetector
from runtime.manifest import Bundle
from runtime.results import Face
from training.batches import to_network
from training.evaluation.crops import Crops, jpeg, to_uint8
from training.stages.publish import Publish

from . import published
from .pairs import Pairs, published_pairs
from .published import Pixels

# Whose noise it is: a reconstructor must not be tested with the noise that it learned with.
OWNER, ATTACKER = 0, 1


class SeededNoise:
    """Noise of mean 0 and variance 1 that is drawn again after the same ``restart``.

    Args:
        key: for the first draws, see ``restart``.
    """

    def __init__(self, *key: int) -> None:
        self.restart(*key)

    def restart(self, *key: int) -> None:
        """Makes the next draws those of a key, and independent of every other key's."""
        self._rng = np.random.default_rng(key)

    def __call__(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """See ``runtime.noise.Normal``."""
        return self._rng.standard_normal(shape, dtype=np.float32)


def averaged(releases: Sequence[Crops]) -> Crops:
    """The mean of several releases of the same faces, rounded."""
    return np.rint(np.mean(releases, axis=0, dtype=np.float32)).astype(np.uint8)


class OnceDetector(FaceDetector):
    """Looks once at a picture that it is shown several times in a row, as for all its releases."""

    _last: tuple[Pixels, tuple[Face, ...]] | None = None

    def detect(self, picture: Pixels) -> tuple[Face, ...]:
        """See ``FaceDetector.detect``; the very same array must not have changed."""
        if self._last is None or self._last[0] is not picture:
            self._last = picture, super().detect(picture)
        return self._last[1]


class Releaser:
    """A bundle of the anonymiser as it is used, and the files that it publishes. A context manager.

    Args:
        bundle: the anonymiser's.
        quality: of the saved JPEG files.
        seed: of all noise.
        threads: CPU threads of each network.
        backend: of the network; a function may put something else in its place.

    Raises:
        BundleError: the bundle is not the anonymiser's.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        quality: int,
        seed: int,
        threads: int | None = None,
        backend: str | BackendFactory = DEFAULT_BACKEND,
    ) -> None:
        check_anonymiser(bundle)
        self.bundle, self.quality, self.seed, self.threads = bundle, quality, seed, threads
        self._backend = backend
        self._noise = SeededNoise(seed, OWNER)
        self._stack = ExitStack()

    def __enter__(self) -> Releaser:
        enter = self._stack.enter_context
        self.detector = enter(OnceDetector.from_bundle(self.bundle, threads=self.threads))
        self._anonymiser = enter(
            Anonymiser(
                self.bundle,
                backend=self._backend,
                threads=self.threads,
                detector=self.detector,
                normal=self._noise,
            )
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def release(self, photo: Pixels, *, strength: float, picture: int, number: int = 0) -> Pixels:
        """The photo as it is published: anonymised, saved, read again.

        Args:
            picture, number: of the photo, and of its release. No two draw the same noise; the same two do,
                whatever the strength, so that strengths are compared on the same noise.

        Raises:
            ErasableMaskError: the strength is not in (0, 1].
            NoFaceError: no face was found.
        """
        self._noise.restart(self.seed, OWNER, picture, number)
        anonymised = self._anonymiser.anonymise(photo, strength=strength).pixels
        return published.decode(published.jpeg(anonymised, self.quality))


def make_releases(
    bundle: Bundle,
    clean: Crops,
    folder: Path,
    *,
    strength: float,
    releases: int,
    quality: int,
    seed: int,
    threads: int | None = None,
) -> Pairs:
    """Anonymises crops several times with noise of an attacker's own, as they are published, and averages.

    Args:
        clean: ``(N, S, S, 3)`` uint8 RGB aligned faces.
        folder: keeps the means, by network, settings and faces; rerun to go on.
        strength: of the noise, in (0, 1].
        releases: of each face.
        quality: of the JPEG files.
        seed: of the noise, which is none that ``Releaser`` draws.
    """
    network = bundle.manifest.models[NETWORK].sha256
    shapes = noise_shapes(bundle.manifest)
    publish = Publish(bundle.manifest.image_size, masked=True, whole_crop=True)
    made_with = f"{network}, strength {strength:g}, {releases} of each, q{quality}, seed {seed}"
    with create_backend(DEFAULT_BACKEND, bundle.read(NETWORK), threads=threads) as painter:

        def release(indices: Sequence[int], faces: Crops, number: int) -> Crops:
            sources = [SeededNoise(seed, ATTACKER, index, number) for index in indices]
            inputs: Mapping[str, NDArray] = {
                "faces": faces,
                **{name: np.stack([draw(shape) for draw in sources]) for name, shape in shapes.items()},
                "strength": np.full((len(faces), 1), strength, np.float32),
            }
            output = painter.run(inputs)["anonymised"]
            return jpeg(to_uint8(publish(to_network(faces), to_network(output))), quality)

        def mean(indices: Sequence[int], faces: Crops) -> Crops:
            return averaged([release(indices, faces, number) for number in range(releases)])

        return published_pairs(clean, mean, folder, made_with=made_with, batch=bundle.manifest.max_batch)
