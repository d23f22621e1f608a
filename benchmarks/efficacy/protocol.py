"""What every measurement on saved files shares: its options, its recognisers, target and thresholds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from runtime.backends import DEFAULT_BACKEND, BackendFactory
from runtime.errors import NoFaceError
from runtime.pictures import read_picture
from training.data import Split, read_celeba
from training.evaluation import (
    FAR_ATTACK,
    FAR_ERASURE,
    Embedding,
    Thresholds,
    attack_rates,
    load_recognizers,
    read_thresholds,
)
from training.evaluation.rates import VERSIONS
from training.evaluation.recognition import OnnxRecognizer, TorchRecognizer

from ..common import draw, environment, pictures_below
from .published import Pixels, Publisher, decode
from .recognition import VerifyRecognizer, embed_main_face, find_main_face, target_embedding
from .suspicion import check_held_out, face_ssim, protection_figures, restoration_figures, suspicions_of

logger = logging.getLogger(__name__)

# Embeddings of one face by recogniser; None where no face was found.
Faces = dict[str, Embedding] | None

_EXISTING = click.Path(path_type=Path, exists=True)
_OPTIONS = (
    click.option("--recognizers", "cards", type=_EXISTING, help="Cards; default: the one of verify, alone."),
    click.option("--target", type=_EXISTING, help="Its picture; default: the embedding in the bundle."),
    click.option("--thresholds", required=True, type=_EXISTING),
    click.option(
        "--bundle", type=click.Path(path_type=Path), help="With public/ and authority/; default: shipped."
    ),
    click.option("--key", type=click.Path(path_type=Path), help="Default: the demo key of the bundle."),
    click.option("--quality", default=95, show_default=True, help="JPEG quality of the saved files."),
    click.option("--threads", type=int, help="CPU threads of each network."),
)


def laboratory_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a command that are ``Laboratory``'s arguments."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


class Laboratory:
    """A bundle as it is used, and strangers' recognisers to look at what it publishes.

    Args:
        cards: of the recognisers; None for the recogniser of ``erasablemask verify`` alone.
        target: the target's picture; None for its embedding in the bundle's manifest, which only the
            recogniser of ``erasablemask verify`` can be compared with.
        thresholds: from ``benchmarks.efficacy calibrate``, of these very recognisers.
        bundle, key, quality, threads, backend: see ``Publisher``.

    Raises:
        ValueError: a recogniser was not calibrated, or there are cards and no target's picture.
        BundleError: entered, and there is neither a target's picture nor its embedding.
        NoFaceError: entered, and the target's picture shows no face.
        ValueError: entered, and a black-box recogniser is one that the bundle was trained against.
    """

    def __init__(
        self,
        *,
        cards: Path | None,
        target: Path | None,
        thresholds: Path,
        bundle: Path | None,
        key: Path | None,
        quality: int,
        threads: int | None,
        backend: str | BackendFactory = DEFAULT_BACKEND,
    ) -> None:
        if cards is not None and target is None:
            raise ValueError("the recognisers of a cards file need the target's picture: give --target")
        self.recognizers: Sequence[OnnxRecognizer | TorchRecognizer | VerifyRecognizer] = (
            load_recognizers(cards, threads=threads) if cards else [VerifyRecognizer()]
        )
        self.roles = {recognizer.name: recognizer.card.role for recognizer in self.recognizers}
        self.thresholds = read_thresholds(thresholds)
        self.thresholds.check(self.recognizers)
        self.publisher = Publisher(bundle, key, quality=quality, threads=threads, backend=backend)
        self._target_picture = target

    def __enter__(self) -> Laboratory:
        with ExitStack() as stack:
            stack.enter_context(self.publisher)
            self._unknown = check_held_out(self.recognizers, self.publisher.manifest.training)
            self.face_ssims: list[float] = []
            self.target = self._embed_target()
            self._stack = stack.pop_all()
        return self

    def _embed_target(self) -> dict[str, Embedding]:
        if self._target_picture is None:
            (recognizer,) = self.recognizers
            return {recognizer.name: target_embedding(self.publisher.manifest)}
        face = self.embed(read_picture(self._target_picture).pixels)
        if face is None:
            raise NoFaceError(f"no face was found in the target's picture {self._target_picture}")
        return face

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def embed(self, pixels: Pixels | None) -> Faces:
        """The main face as every recogniser sees it, found anew; None without a face or a picture."""
        return None if pixels is None else embed_main_face(pixels, self.publisher.detector, self.recognizers)

    def protect(self, path: Path) -> tuple[Pixels, bytes] | None:
        """A picture and its protected file; None, and a line in the log, where no face is found."""
        clean = read_picture(path).pixels
        try:
            published = self.publisher.protect(clean)
        except NoFaceError:
            logger.warning("no face was found in %s", path.name)
            return None
        if (face := find_main_face(clean, self.publisher.detector)) is not None:
            self.face_ssims.append(face_ssim(clean, decode(published), face.landmarks))
        return clean, published

    def summarise(self, pictures: Sequence[dict[str, Faces]]) -> dict[str, Any]:
        """See ``summarise``."""
        return summarise(pictures, self.roles, self.target, self.thresholds)

    def plausibility(self, pictures: Sequence[dict[str, Faces]], **figures: float) -> dict[str, Any]:
        """What cheats would show in, and the suspicions it gives rise to; see ``suspicion``.

        Args:
            pictures: every picture's embeddings, ``clean`` and ``restored`` among them.
            figures: more of those that ``suspicion.BOUNDS`` names.
        """
        faces = {
            version: {n: matrix([p[version] for p in pictures], n, len(t)) for n, t in self.target.items()}
            for version in ("clean", "restored")
        }
        thresholds = {name: self.thresholds.at(name, FAR_ATTACK) for name in self.target}
        found = {
            **protection_figures(self.face_ssims),
            **restoration_figures(faces["clean"], faces["restored"], thresholds),
            **figures,
        }
        return {"plausibility": found, "suspicions": self.doubts(found)}

    def doubts(self, figures: Mapping[str, float] | None = None) -> list[dict[str, str]]:
        """The suspicions that figures give rise to, after what cannot be known of the recognisers."""
        return [asdict(suspicion) for suspicion in (*self._unknown, *suspicions_of(figures or {}))]

    def about(self, benchmark: str) -> dict[str, Any]:
        """What a result says of how it came about."""
        return {
            "benchmark": benchmark,
            "environment": environment(),
            "bundle": self.publisher.about,
            "target": self._target_picture.name if self._target_picture else self.publisher.manifest.target,
            "jpeg_quality": self.publisher.quality,
            "calibration": self.thresholds.source,
        }


def summarise(
    pictures: Sequence[dict[str, Faces]],
    roles: dict[str, str],
    target: dict[str, Embedding],
    thresholds: Thresholds,
) -> dict[str, Any]:
    """Rates and mean cosines by recogniser; see ``training.evaluation.rates``.

    Args:
        pictures: the face's embeddings by version; None where it was not found, or could not be erased.
        roles: white-box or black-box, by recogniser.
        target: the target's embedding by recogniser.
    """
    result = {}
    for name, role in roles.items():
        attack, erasure = thresholds.at(name, FAR_ATTACK), thresholds.at(name, FAR_ERASURE)
        result[name] = {
            "role": role,
            "threshold": {str(FAR_ATTACK): attack, str(FAR_ERASURE): erasure},
            **attack_rates(
                {v: matrix([p[v] for p in pictures], name, len(target[name])) for v in VERSIONS},
                target[name],
                attack_threshold=attack,
                erasure_threshold=erasure,
            ),
        }
    return result


def matrix(faces: Sequence[Faces], name: str, size: int) -> NDArray[np.floating]:
    """``(N, d)`` embeddings of one recogniser; NaN where no face was found."""
    lost = np.full(size, np.nan)
    return np.stack([lost if face is None else face[name] for face in faces])


def lost_faces(pictures: Sequence[dict[str, Faces]]) -> dict[str, int]:
    """How many faces were not found, by version."""
    return {version: sum(picture[version] is None for picture in pictures) for version in VERSIONS}


def people_of_celeba(root: Path) -> list[list[Path]]:
    """The test partition's pictures, person by person, in the order of their names."""
    people: dict[int, list[Path]] = {}
    for record in read_celeba(root, Split.TEST):
        people.setdefault(record.identity, []).append(record.path)
    return list(people.values())


def chosen_pictures(images: Path, count: int, seed: int) -> tuple[list[Path], str]:
    """Pictures to measure on and what they are: of a folder, or one a person of CelebA's test partition."""
    if (images / "list_eval_partition.txt").exists():
        first = [photos[0] for photos in people_of_celeba(images)]
        return draw(first, count, seed), f"{images.name}, test partition"
    return draw(pictures_below(images), count, seed), images.name
