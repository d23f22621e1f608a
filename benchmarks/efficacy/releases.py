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

from runtime.anonymiser import NETWORK, Anonymiser, noise_shapes
from runtime.backends import DEFAULT_BACKEND, BackendFactory, create_backend
from runtime.detection import FaceDetector
from runtime.manifest import Bundle
from training.batches import to_network
from training.evaluation.crops import Crops, jpeg, to_uint8
from training.stages.publish import Publish

from . import published
from .pairs import SHARD, Pairs
from .published import Pixels
from .shards import in_shards

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


class Releaser:
    """A bundle of the anonymiser as it is used, and the files that it publishes. A context manager.

    Args:
        bundle: the anonymiser's.
        quality: of the saved JPEG files.
        seed: of all noise.
        threads: CPU threads of each network.
        backend: of the network; a function may put something else in its place.
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
        self.bundle, self.quality, self.seed, self.threads = bundle, quality, seed, threads
        self._backend = backend
        self._noise = SeededNoise(seed, OWNER)
        self._stack = ExitStack()

    def __enter__(self) -> Releaser:
        enter = self._stack.enter_context
        self.detector = enter(FaceDetector.from_bundle(self.bundle, threads=self.threads))
        self._anonymiser = enter(
            Anonymiser(self.bundle, backend=self._backend, threads=self.threads, normal=self._noise)
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
        folder: keeps the means, by network and settings; rerun to go on.
        releases: of each face.
        quality: of the JPEG files.
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

        def make(indices: Sequence[int]) -> Mapping[str, NDArray]:
            step = bundle.manifest.max_batch
            means = []
            for some in (indices[i : i + step] for i in range(0, len(indices), step)):
                faces = np.array(clean[list(some)])  # a pack is mapped, and read-only
                means.append(averaged([release(some, faces, number) for number in range(releases)]))
            return {"published": np.concatenate(means)}

        shards = folder / f"releases-{network[:12]}-s{strength:g}-k{releases}-q{quality}-{seed}"
        made = in_shards(range(len(clean)), make, shards, size=SHARD, title=f"{releases} of each face")
    return Pairs(np.asarray(clean), made["published"], made_with)
