"""What a hacker can make with the public bundle and own faces: pairs of a protected face and a clean one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.backends import DEFAULT_BACKEND, create_backend
from runtime.manifest import Bundle
from training.batches import to_network
from training.evaluation.crops import Crops, jpeg, to_uint8
from training.stages.publish import Publish

from ..common import digest_of
from .shards import in_shards

SHARD = 250  # faces that are published before they are kept on disk


@dataclass(frozen=True)
class Pairs:
    """Faces before and after.

    Attributes:
        clean, published: ``(N, S, S, 3)`` uint8 RGB; the published ones were saved as JPEG.
        made_with: what made them, by SHA-256 of its network, and of which faces.
    """

    clean: Crops
    published: Crops
    made_with: str

    def __len__(self) -> int:
        return len(self.clean)


def make_pairs(
    bundle: Bundle, clean: Crops, folder: Path, *, quality: int, threads: int | None = None
) -> Pairs:
    """Protects crops with a public bundle at its own settings, pastes them back, saves them as JPEG.

    Args:
        clean: ``(N, S, S, 3)`` uint8 RGB aligned faces.
        folder: keeps the protected ones, by generator and faces; rerun to go on.
        quality: of the JPEG files.
    """
    made_with = f"{bundle.manifest.models['protect'].sha256}, q{quality}"
    publish = Publish(bundle.manifest.image_size, masked=True)
    with (
        create_backend(DEFAULT_BACKEND, bundle.read("protect"), threads=threads) as generator,
        create_backend(DEFAULT_BACKEND, bundle.read("attributes"), threads=threads) as labeller,
    ):

        def protect(_: Sequence[int], faces: Crops) -> Crops:
            column = np.ones((len(faces), 1), np.float32)
            inputs: Mapping[str, NDArray] = {
                "faces": faces,
                "attributes": (labeller.run({"faces": faces})["probabilities"] >= 0.5).astype(np.float32),
                "strength": column * np.float32(bundle.manifest.strength),
                "injection": column * np.float32(bundle.manifest.injection),
            }
            output = generator.run(inputs)["protected"]
            return jpeg(to_uint8(publish(to_network(faces), to_network(output))), quality)

        return published_pairs(clean, protect, folder, made_with=made_with, batch=bundle.manifest.max_batch)


def published_pairs(
    clean: Crops,
    publish: Callable[[Sequence[int], Crops], Crops],
    folder: Path,
    *,
    made_with: str,
    batch: int,
) -> Pairs:
    """Publishes crops, and keeps them for these very faces and what publishes them.

    Args:
        clean: ``(N, S, S, 3)`` uint8 RGB aligned faces; may be mapped from a file, and read-only.
        publish: from the places of some faces among ``clean``, and the faces, to as many published ones.
        folder: keeps them; rerun to go on.
        made_with: all that ``publish`` depends on.
        batch: faces at once, at most.
    """
    made_with = f"{made_with}, faces {hashlib.sha256(np.ascontiguousarray(clean).data).hexdigest()[:12]}"

    def make(indices: Sequence[int]) -> Mapping[str, NDArray]:
        parts = [indices[i : i + batch] for i in range(0, len(indices), batch)]
        return {"published": np.concatenate([publish(part, np.array(clean[list(part)])) for part in parts])}

    shards = folder / f"pairs-{digest_of(made_with)[:12]}"
    made = in_shards(range(len(clean)), make, shards, size=SHARD, title="pairs")
    return Pairs(np.asarray(clean), made["published"], made_with)
