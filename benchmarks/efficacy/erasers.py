"""Erasers that need no secret, as backends: each takes the restorer's place in the runtime's own pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from runtime.backends import Backend, BackendFactory
from runtime.closing import Closing
from training.batches import to_network
from training.evaluation.crops import Crops, jpeg, to_uint8

# Faces ``(N, S, S, 3)`` uint8 RGB to the same.
Erase = Callable[[Crops], Crops]


class CropBackend(Closing):
    """A backend whose network is a Python function of the faces."""

    def __init__(self, name: str, erase: Erase) -> None:
        self.name = name
        self._erase = erase

    def run(self, inputs: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """See ``Backend.run``."""
        return {"restored": self._erase(inputs["faces"])}

    def close(self) -> None:
        """There is nothing to free."""


def in_place_of_the_restorer(name: str, erase: Erase) -> BackendFactory:
    """What makes a ``Publisher`` erase by a function; the restorer's bytes are not looked at."""

    def make(network: str, model: bytes) -> Backend:
        return CropBackend(name, erase)

    return make


def by_network(network: nn.Module) -> Erase:
    """A trained purifier."""
    network.eval()

    def erase(faces: Crops) -> Crops:
        with torch.inference_mode():
            return to_uint8(network(to_network(faces)).clamp(-1, 1))

    return erase


def unchanged(faces: Crops) -> Crops:
    """Nothing is erased."""
    return faces


def jpeg_and_blur(faces: Crops) -> Crops:
    """JPEG q30, then a Gaussian blur of sigma 1: purification without any training."""
    return np.stack([cv2.GaussianBlur(face, (0, 0), 1.0) for face in jpeg(faces, 30)])


def total_variation(faces: Crops) -> Crops:
    """Total-variation denoising (Chambolle, 2004), which Guo et al., 2018, set against adversaries."""
    from skimage.restoration import denoise_tv_chambolle

    denoised = [denoise_tv_chambolle(face, weight=0.1, channel_axis=2) for face in faces]
    return np.rint(255 * np.clip(np.stack(denoised), 0, 1)).astype(np.uint8)


GENERIC: dict[str, Erase] = {"JPEG q30 and blur": jpeg_and_blur, "total variation": total_variation}
