"""The discriminator D: a convolutional trunk with a real/fake head and an attribute head (Eqs. 3-4)."""

from __future__ import annotations

from torch import Tensor, nn

from .blocks import channels_at


class Discriminator(nn.Module):
    """``D_G`` and ``D_att`` on a shared trunk; both return logits.

    Args:
        image_size: side of the square picture, a multiple of ``2**depth``.
        width: channels of the first layer.
        depth: convolution layers.
        n_attributes: number of attributes to tell.
        hidden: width of each head's hidden layer (AttGAN: 1024).
        max_channels: bound on the trunk's channels.
    """

    def __init__(
        self, *, image_size: int, width: int, depth: int, n_attributes: int, hidden: int, max_channels: int
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels_in = 3
        for level in range(depth):
            channels_out = min(channels_at(width, level), max_channels)
            layers += [
                nn.Conv2d(channels_in, channels_out, 4, stride=2, padding=1),
                nn.InstanceNorm2d(channels_out, affine=True),
                nn.LeakyReLU(0.2),
            ]
            channels_in = channels_out
        self.trunk = nn.Sequential(*layers, nn.Flatten())
        n_features = channels_in * (image_size // 2**depth) ** 2
        self.real_head = _head(n_features, hidden, 1)
        self.attribute_head = _head(n_features, hidden, n_attributes)

    def forward(self, face: Tensor) -> tuple[Tensor, Tensor]:
        """float32 logits of faces ``(N, 3, S, S)`` in [-1, 1]: real ``(N, 1)``, attributes ``(N, n)``."""
        features = self.trunk(face)
        return self.real_head(features).float(), self.attribute_head(features).float()


def _head(n_in: int, hidden: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, n_out))
