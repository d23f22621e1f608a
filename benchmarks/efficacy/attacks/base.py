"""The contract of an attack: aligned crops in, protected crops out."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Crops = NDArray[np.uint8]


class UnbuildableError(Exception):
    """An attack cannot be had here; the message is the reason that its row gives instead of numbers."""


@dataclass(frozen=True)
class Attack(ABC):
    """Somebody's way to protect a face. Implementations are frozen dataclasses.

    Their fields, numbers and words, are the settings that a result states; of networks, the SHA-256.
    """

    def __call__(self, crops: Crops, *, seed: int) -> Crops:
        """Protects aligned faces; the same crops and seed give the same result.

        Args:
            crops: uint8 ``(N, S, S, 3)`` RGB, aligned to ``runtime.geometry.CROP_TEMPLATE``; not changed.
            seed: of everything that is drawn. Other crops draw other numbers.

        Returns:
            uint8, of the same shape.

        Raises:
            ValueError: the crops are something else.
        """
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1] != crops.shape[2]:
            raise ValueError(
                f"expected aligned crops uint8 (N, S, S, 3), found {crops.dtype} {crops.shape}; "
                "align them with runtime.geometry.crop_transform"
            )
        # Numbers near 0 make some recognisers 10 to 30 times slower on a CPU.
        torch.set_flush_denormal(True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(crops.tobytes(), seed))
            return to_crops(self.perturb(to_faces(crops)))

    @abstractmethod
    def perturb(self, faces: Tensor) -> Tensor:
        """``(N, 3, S, S)`` RGB in [0, 1] to faces of the same shape and range.

        What is drawn comes from torch's own generator, which is seeded.
        """

    @property
    def settings(self) -> dict[str, Any]:
        """What a result states of how the attack was run."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = {name: getattr(value, "sha256", value) for name, value in values.items()}
        return {name: value for name, value in plain.items() if isinstance(value, int | float | str)}


@dataclass(frozen=True)
class Clean(Attack):
    """Does nothing: the row shows what saving the file as JPEG does by itself."""

    def perturb(self, faces: Tensor) -> Tensor:
        """See ``Attack.perturb``."""
        return faces


def to_faces(crops: Crops) -> Tensor:
    """uint8 ``(N, S, S, 3)`` to float32 ``(N, 3, S, S)`` in [0, 1], channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2).float() / 255


def to_crops(faces: Tensor) -> Crops:
    """float ``(N, 3, S, S)`` in [0, 1] to uint8 ``(N, S, S, 3)``, rounded: bounds of whole levels hold."""
    levels = (faces.detach() * 255).round().clamp(0, 255)
    return levels.permute(0, 2, 3, 1).to(torch.uint8).contiguous().numpy()
