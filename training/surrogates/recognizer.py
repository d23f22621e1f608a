"""One recogniser as a frozen, differentiable module: aligned crop and landmarks in, embedding out."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from runtime.geometry import box_transform, invert

from ..fingerprint import Fingerprint, onnx_fingerprint, weights_sha256
from .card import RecognizerCard
from .sources import LOADERS


class Recognizer(nn.Module):
    """A frozen face recogniser that sees the face as deployed ones do: warped to its own template.

    Args:
        card: the recogniser's input rectangle, size, colour order and normalisation.
        network: ``(N, 3, H, W)``, so normalised, to ``(N, d)``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, card: RecognizerCard, network: nn.Module) -> None:
        super().__init__()
        self.card = card
        self.network = network.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(card.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(card.std).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> Recognizer:
        """Stays in evaluation mode: the recogniser is what the attack is measured against."""
        return super().train(False)

    def fingerprint(self) -> Fingerprint:
        """What the network is known by later."""
        if self.card.source == "onnx" and self.card.path is not None:
            return onnx_fingerprint(self.card.path)
        file = sha256(self.card.path.read_bytes()).hexdigest() if self.card.path else None
        return Fingerprint(file, weights_sha256(t.cpu().numpy() for t in self.network.state_dict().values()))

    def sampling_grid(self, landmarks: Tensor, crop_px: int) -> Tensor:
        """Where each input pixel lies in the crop.

        Args:
            landmarks: ``(N, 5, 2)`` in the pixels of a square crop of side ``crop_px``.

        Returns:
            ``(N, H, W, 2)`` in ``grid_sample``'s normalised coordinates; a constant of the faces.
        """
        height, width = self.card.size_hw
        matrices = np.stack(
            [
                invert(box_transform(face, self.card.box, self.card.size_hw))
                for face in landmarks.cpu().numpy()
            ]
        )
        ys, xs = np.mgrid[:height, :width]
        pixels = np.stack([xs, ys, np.ones_like(xs)], axis=-1).reshape(-1, 3).astype(np.float64)
        points = (pixels @ matrices.transpose(0, 2, 1)).reshape(-1, height, width, 2)
        grid = (2 * points + 1) / crop_px - 1
        return torch.from_numpy(grid.astype(np.float32)).to(landmarks.device)

    def forward(self, face: Tensor, grid: Tensor) -> Tensor:
        """Unit-norm embeddings ``(N, d)``, differentiable in the face.

        Args:
            face: ``(N, 3, S, S)`` RGB in [-1, 1].
            grid: ``sampling_grid`` of the faces' landmarks.
        """
        with torch.autocast(face.device.type, enabled=False):  # what it measures must not depend on bf16
            aligned = functional.grid_sample(
                face.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
            )
            return self.embed((aligned + 1) / 2)

    def embed(self, aligned: Tensor) -> Tensor:
        """Unit-norm embeddings ``(N, d)`` of faces at the recogniser's own template and size.

        Args:
            aligned: ``(N, 3, H, W)`` RGB in [0, 1].
        """
        ordered = aligned.flip(1) if self.card.colour == "bgr" else aligned
        normalised = ((ordered - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return functional.normalize(self.network(normalised), dim=1)


def load_recognizer(card: RecognizerCard) -> Recognizer:
    """Loads a card's network from its source.

    Raises:
        SurrogateError: the source cannot give it.
    """
    # Convolutions are faster channels last, forward and back.
    return Recognizer(card, LOADERS[card.source](card).to(memory_format=torch.channels_last))
