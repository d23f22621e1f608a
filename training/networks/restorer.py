"""The restorer R (Eq. 13): the authority's network, which erases the mask."""

from __future__ import annotations

from torch import Tensor, nn

from .blocks import Decoder, Encoder
from .generator import Generator


class Restorer(nn.Module):
    """``x_rec = R(x_adv)``: the generator's encoder and decoder, without an attribute input.

    The paper starts R from G's weights. R is not told any attributes (Eq. 13), so its decoder is G's
    without the weights that read them.

    Args:
        width: channels of the first encoder layer.
        depth: encoder layers.
        shortcut_layers: encoder features handed to the decoder.
    """

    def __init__(self, *, width: int, depth: int, shortcut_layers: int = 1) -> None:
        super().__init__()
        self.encoder = Encoder(width=width, depth=depth)
        self.decoder = Decoder(
            width=width, depth=depth, n_attributes=0, shortcut_layers=shortcut_layers, inject_layers=0
        )

    def start_from(self, generator: Generator) -> None:
        """Copies ``G_enc`` and ``G_dec``; the attributes' input channels come last and are left out."""
        self.encoder.load_state_dict(generator.encoder.state_dict())
        source = generator.decoder.state_dict()
        self.decoder.load_state_dict(
            {
                name: source[name][: own.shape[0]] if own.ndim == 4 else source[name]
                for name, own in self.decoder.state_dict().items()
            }
        )

    def forward(self, face: Tensor) -> Tensor:
        """The restored face, ``(N, 3, S, S)`` in [-1, 1], from a protected one of the same shape."""
        return self.decoder(self.encoder(face), None)[-1]
