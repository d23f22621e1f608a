"""What every attack may use: the white-box recognisers, differentiable, and the target as they see it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from runtime.geometry import crop_template
from runtime.manifest import sha256_of
from training.stages.surrogate_loss import shared_faces
from training.surrogates import Recognizer, SurrogateError, load_cards, load_recognizer, select_white_box
from training.target import target_crops

from .base import Crops, to_faces


class Surrogates(nn.Module):
    """Frozen white-box recognisers that look at aligned crops, each through its own template.

    The landmarks of every crop are the crop template's: alignment put them there, up to what a similarity
    cannot undo, about 1.3 pixels of 128 on average. So an attack needs nothing but the crop.

    Args:
        recognizers: white-box ones.
        target: one aligned crop, uint8 ``(S, S, 3)``, of the identity that faces are moved to.

    Raises:
        SurrogateError: a recogniser is not white-box: what strangers use must never be attacked itself.
    """

    def __init__(self, recognizers: Sequence[Recognizer], target: Crops) -> None:
        super().__init__()
        for recognizer in recognizers:
            if recognizer.card.role != "white-box":
                raise SurrogateError(
                    f"expected white-box recognisers to attack, found {recognizer.card.name!r}, "
                    f"{recognizer.card.role}: it is held out and only measures"
                )
        self.recognizers = nn.ModuleList(recognizers)
        self.names = [recognizer.card.name for recognizer in recognizers]
        self.eval()
        self.crop_px = target.shape[0]
        self.target_sha256 = sha256_of(target.tobytes())
        landmarks = torch.from_numpy(crop_template(self.crop_px))[None]
        self._grids = [recognizer.sampling_grid(landmarks, self.crop_px) for recognizer in recognizers]
        self.target = to_faces(target[None])
        with torch.no_grad():
            self.target_embeddings = [embedding[0] for embedding in self.embeddings(self.target)]

    def embeddings(self, faces: Tensor) -> list[Tensor]:
        """Unit-norm ``(N, d_i)`` by each recogniser, of faces ``(N, 3, S, S)`` in [0, 1]; differentiable."""
        picture = 2 * faces - 1
        return [
            recognizer(picture, grid.expand(len(faces), -1, -1, -1))
            for recognizer, grid in zip(self.recognizers, self._grids, strict=True)
        ]

    def shared_cosine(self, faces: Tensor) -> Tensor:
        """Cosine to the target ``(N,)``, each recogniser seeing a share of the faces: three times cheaper."""
        picture = 2 * faces - 1
        parts = shared_faces(len(faces), len(self.recognizers))
        return torch.cat(
            [
                recognizer(picture[part], grid.expand(part.stop - part.start, -1, -1, -1)) @ target
                for recognizer, grid, target, part in zip(
                    self.recognizers, self._grids, self.target_embeddings, parts, strict=True
                )
                if part.start < part.stop
            ]
        )

    def forward(self, faces: Tensor) -> Tensor:
        """Mean cosine to the target over the recognisers, ``(N,)`` in [-1, 1]; higher = closer."""
        return self.cosine_to(faces, self.target_embeddings)

    def cosine_to(self, faces: Tensor, target: Sequence[Tensor]) -> Tensor:
        """The same to other embeddings: ``(d_i,)`` for all faces, or ``(N, d_i)``."""
        pairs = zip(self.embeddings(faces), target, strict=True)
        return torch.stack([(embedding * own).sum(1) for embedding, own in pairs]).mean(0)


def load_surrogates(cards: Path, target: Path, crop_px: int) -> Surrogates:
    """The white-box recognisers of a cards file; black-box ones are not even loaded.

    Raises:
        SurrogateError: there is none, or one cannot be loaded.
        DataError: the target's picture shows no face.
    """
    recognizers = [load_recognizer(card) for card in select_white_box(load_cards(cards), None)]
    (crop,), _ = target_crops([target])
    resized = cv2.resize(crop, (crop_px, crop_px), interpolation=cv2.INTER_AREA)
    return Surrogates(recognizers, np.asarray(resized, dtype=np.uint8))
