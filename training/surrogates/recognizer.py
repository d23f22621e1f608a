"""One recogniser as a frozen, differentiable module: aligned crop and landmarks in, embedding out."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from runtime.geometry import box_transform, invert

from .card import RecognizerCard, SurrogateError


class Recognizer(nn.Module):
    """A frozen face recogniser that sees the face as deployed ones do: warped to its own template.

    Args:
        card: the recogniser's input rectangle and size.
        network: ``(N, 3, H, W)`` RGB in [0, 1] to ``(N, d)``.
    """

    def __init__(self, card: RecognizerCard, network: nn.Module) -> None:
        super().__init__()
        self.card = card
        self.network = network.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Recognizer:
        """Stays in evaluation mode: the recogniser is what the attack is measured against."""
        return super().train(False)

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
            # Convolutions are faster channels last, forward and back.
            unit = ((aligned + 1) / 2).contiguous(memory_format=torch.channels_last)
            return functional.normalize(self.network(unit), dim=1)


def load_recognizer(card: RecognizerCard) -> Recognizer:
    """Loads an ONNX recogniser as a differentiable module.

    Raises:
        SurrogateError: the file is missing or has an operator that cannot be differentiated.
    """
    import onnx
    import onnx2torch

    try:
        graph = onnx.load(card.path)
    except OSError as error:
        raise SurrogateError(f"{card.name}: cannot read {card.path}: {error}") from error
    try:
        network = onnx2torch.convert(graph)
    except NotImplementedError as error:
        raise SurrogateError(f"{card.name}: {card.path} cannot be made differentiable: {error}") from error
    # onnx2torch indexes with lists, which torch deprecates; nothing here can change that.
    warnings.filterwarnings("ignore", message="Using a non-tuple sequence", category=UserWarning)
    return Recognizer(card, network.to(memory_format=torch.channels_last))
