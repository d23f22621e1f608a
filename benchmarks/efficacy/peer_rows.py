"""One row of the comparison: a way to protect a face, measured on saved files as ours is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from runtime.errors import NoFaceError
from training.evaluation import mean_of

from .attacks.ahead import AheadBackend, Meter, metered, protect_with
from .attacks.base import Attack
from .pictures import Perceptual, quality_and_distances
from .protocol import Faces, Laboratory
from .published import decode
from .suspicion import protection_figures, suspicions_of

FACES_AT_ONCE = 8
NO_ERASER = "nobody can erase it: the method has no restorer, and no authority whom it belongs to"
ERASED = ("esr", "owner_accepted_restored")


@dataclass(frozen=True)
class Sample:
    """One picture's embeddings by version, and its picture quality, protected against clean."""

    embeddings: dict[str, Faces]
    quality: dict[str, float]


@dataclass(kw_only=True)
class Comparison:
    """What all rows have in common.

    Args:
        paths: the pictures.
        laboratory: arguments of ``Laboratory``.
        perceptual: distances of pictures by name.
        seed: of the attacks.
        folder: finished batches of attacks are kept there.
    """

    paths: Sequence[Path]
    laboratory: Mapping[str, Any]
    perceptual: Mapping[str, Perceptual]
    seed: int
    folder: Path
    _clean: dict[Path, Faces] = field(default_factory=dict)

    def measure(self, attack: Attack | None, kept: str) -> dict[str, Any]:
        """Measures an attack, or, for None, the bundle's own network and what its restorer erases.

        Args:
            kept: name of the attack's folder; another for everything that its batches depend on.

        Raises:
            NoFaceError: there is none in the target's picture, or in any of the pictures.
        """
        meter, threads = Meter(), self.laboratory["threads"]
        if attack is None:
            factory = metered(meter, threads=threads)
        else:
            ahead = AheadBackend(attack, meter, seed=self.seed, folder=self.folder / kept)
            factory = protect_with(ahead, threads=threads)
        with Laboratory(**self.laboratory, backend=factory) as laboratory:
            if attack is not None:
                for path in track(self.paths, "finding faces"):
                    laboratory.protect(path)
                laboratory.face_ssims.clear()  # so far nothing was done to them
                ahead.prepare(FACES_AT_ONCE, lambda starts: track(list(starts), "attacking"))
            found = [self._run(path, laboratory, attack is None) for path in track(self.paths, "measuring")]
            samples = [sample for sample in found if sample is not None]
            if not samples:
                raise NoFaceError(f"no face was found in any of {len(self.paths)} pictures")
            rows = laboratory.summarise([sample.embeddings for sample in samples])
        quality = {
            measure: mean_of(np.array([sample.quality[measure] for sample in samples]))
            for measure in samples[0].quality
        }
        changed = protection_figures(laboratory.face_ssims) | {"protected_ssim": quality["ssim"].value}
        if attack is not None:
            rows = {name: without_erasure(row) for name, row in rows.items()}
        return {
            "erasable": attack is None,
            **({} if attack is None else {"not_erasable": NO_ERASER}),
            "no_face_found": len(found) - len(samples),
            "lost": sum(sample.embeddings["protected"] is None for sample in samples),
            "recognizers": rows,
            "quality": quality,
            "plausibility": changed,
            "suspicions": [asdict(suspicion) for suspicion in suspicions_of(changed)],
            "network": {
                "faces": len(meter.seconds),
                "faces_at_once": 1 if attack is None else FACES_AT_ONCE,
                "seconds_a_face": float(np.median(meter.seconds)),
                "mean_change_levels": float(np.mean(meter.mean_levels)),
                "max_change_levels": int(max(meter.max_levels)),
                "ssim": mean_of(np.array(meter.ssim)),
            },
        }

    def _run(self, path: Path, laboratory: Laboratory, erasable: bool) -> Sample | None:
        made = laboratory.protect(path)
        if made is None:
            return None
        clean, file = made
        protected = decode(file)
        restored = laboratory.publisher.erase(protected) if erasable else None
        if path not in self._clean:
            self._clean[path] = laboratory.embed(clean)
        return Sample(
            {
                "clean": self._clean[path],
                "protected": laboratory.embed(protected),
                "restored": laboratory.embed(decode(restored) if restored else None),
            },
            quality_and_distances(self.perceptual, clean, protected),
        )


def without_erasure(row: Mapping[str, Any]) -> dict[str, Any]:
    """A recogniser's rates with null in place of everything that is about a restored picture."""
    cosines = {
        name: {**row[name], "restored": None}
        for name in ("cosine_to_target", "cosine_to_owner")
        if name in row
    }
    return {**row, **cosines, **dict.fromkeys(ERASED)}
