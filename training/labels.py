"""Attributes of faces that nobody labelled, by the discriminator of a trained run."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from .batches import to_network
from .checkpoint import load_networks
from .data import ATTRIBUTES, DataError

BATCH = 64


class RunLabeller:
    """``D_att`` of a trained run: an attribute is there where its logit is positive.

    Args:
        run: the run's folder.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        DataError: the run knows too few attributes.
    """

    def __init__(self, run: Path) -> None:
        config, _, _, self._discriminator, about = load_networks(run)
        names = list(about.get("attributes", ()))
        missing = [name for name in ATTRIBUTES if name not in names]
        if missing:
            raise DataError(f"{run} cannot label faces: it does not know {', '.join(missing)}")
        self._columns = [names.index(name) for name in ATTRIBUTES]
        self._size_px = config.network.image_size
        digest = sha256()
        for tensor in self._discriminator.state_dict().values():
            digest.update(tensor.numpy().tobytes())
        self.source = {"run": run.resolve().name, "discriminator_sha256": digest.hexdigest()}

    @torch.no_grad()
    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Attributes ``(N, n)`` in {0, 1} of aligned crops ``(N, S, S, 3)`` of any size."""
        labels = []
        for start in range(0, len(crops), BATCH):
            face = to_network(np.array(crops[start : start + BATCH]))
            if face.shape[-1] != self._size_px:
                face = interpolate(face, size=2 * [self._size_px], mode="bilinear", antialias=True)
            logits = self._discriminator(face)[1][:, self._columns]
            labels.append((logits > 0).to(torch.uint8).numpy())
        return np.concatenate(labels)
