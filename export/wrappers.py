"""Export-only modules: a trained network with the way in from a picture and the way out to one inside.

Faces enter and leave as uint8 ``(N, S, S, 3)``, channels last, RGB, 0 to 255: a caller cannot normalise
twice, and a quarter of the bytes travel. The conversion is the first and the last operation, for TensorRT
takes uint8 no further than that. Nothing here has weights of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.networks import Anonymiser, Discriminator, Generator, Restorer


def to_network(faces: Tensor) -> Tensor:
    """uint8 ``(N, S, S, 3)`` in [0, 255] to float32 ``(N, 3, S, S)`` in [-1, 1]."""
    return faces.to(torch.float32).permute(0, 3, 1, 2) / 127.5 - 1.0


def to_picture(face: Tensor) -> Tensor:
    """float ``(N, 3, S, S)`` to uint8 ``(N, S, S, 3)``: rounded half to even, clamped to [0, 255]."""
    levels = ((face + 1.0) * 127.5).round().clamp(0.0, 255.0)
    return levels.permute(0, 2, 3, 1).to(torch.uint8)


def computing_type(network: nn.Module) -> torch.dtype:
    """The type of a network's weights, in which it then computes."""
    return next(network.parameters()).dtype


class ProtectExport(nn.Module):
    """The generator (Eqs. 6-7) from faces to protected faces, its knobs still inputs."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, faces: Tensor, attributes: Tensor, strength: Tensor, injection: Tensor) -> Tensor:
        """Protects faces.

        Args:
            faces: uint8 ``(N, S, S, 3)`` RGB.
            attributes: float32 ``(N, n)`` in [0, 1], those of the protected face.
            strength: float32 ``(N, 1)`` in [0, 1], share of the perturbation, ``1 - beta`` of Eq. 6.
            injection: float32 ``(N, 1)`` in [0, 1], weight of the clean branch, gamma.

        Returns:
            uint8 ``(N, S, S, 3)`` RGB.
        """
        dtype = computing_type(self.generator)
        protected = self.generator(
            to_network(faces).to(dtype),
            attributes.to(dtype),
            strength=strength.to(dtype)[:, :, None, None],
            injection=injection.to(dtype)[:, :, None, None],
        )
        return to_picture(protected.float())


class RestoreExport(nn.Module):
    """The restorer (Eq. 13) from protected faces to restored ones, both uint8 ``(N, S, S, 3)`` RGB."""

    def __init__(self, restorer: Restorer) -> None:
        super().__init__()
        self.restorer = restorer

    def forward(self, faces: Tensor) -> Tensor:
        dtype = computing_type(self.restorer)
        return to_picture(self.restorer(to_network(faces).to(dtype)).float())


class AttributesExport(nn.Module):
    """The discriminator's attribute head: uint8 faces ``(N, S, S, 3)`` to float32 ``(N, n)`` in [0, 1].

    The head that tells real from generated is left behind.
    """

    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        self.trunk = discriminator.trunk
        self.head = discriminator.attribute_head

    def forward(self, faces: Tensor) -> Tensor:
        dtype = computing_type(self.trunk)
        return self.head(self.trunk(to_network(faces).to(dtype))).float().sigmoid()


class AnonymiseExport(nn.Module):
    """The anonymiser from faces and fresh noise to anonymised faces, the strength still an input.

    It draws nothing itself, so that the graph is deterministic. It computes in float32: half precision would
    move the front-end's steps.
    """

    def __init__(self, anonymiser: Anonymiser) -> None:
        super().__init__()
        self.anonymiser = anonymiser

    def forward(self, faces: Tensor, grain: Tensor, shade: Tensor, strength: Tensor) -> Tensor:
        """Anonymises faces.

        Args:
            faces: uint8 ``(N, S, S, 3)`` RGB.
            grain: float32 ``(N, 1, S, S)`` of mean 0 and variance 1, fresh for every face.
            shade: float32 ``(N, 3, C, C)``, likewise.
            strength: float32 ``(N, 1)`` in [0, 1], of the grain.

        Returns:
            uint8 ``(N, S, S, 3)`` RGB.
        """
        return to_picture(
            self.anonymiser(to_network(faces), grain, shade, strength=strength[:, :, None, None])
        )
