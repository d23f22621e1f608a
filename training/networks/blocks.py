"""Encoder and decoder of AttGAN (He et al., 2019), whose structure ErasableMask takes over (section IV).

Every encoder layer halves the picture, every decoder layer doubles it. Channels double with depth up to
``MAX_CHANNELS``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

MAX_CHANNELS = 1024


def channels_at(width: int, level: int) -> int:
    """Channels ``level`` layers down (0 is the first): ``width * 2**level``, at most ``MAX_CHANNELS``."""
    return min(width * 2**level, MAX_CHANNELS)


class Encoder(nn.Module):
    """``G_enc`` and ``E_adv`` of Eq. 6: convolution 4x4 stride 2, batch norm, leaky ReLU, ``depth`` times.

    Args:
        width: channels of the first layer.
        depth: number of layers; the side of the picture must be a multiple of ``2**depth``.
        channels_in: of the picture.
    """

    def __init__(self, *, width: int, depth: int, channels_in: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for level in range(depth):
            channels_out = channels_at(width, level)
            layers.append(
                nn.Sequential(
                    nn.Conv2d(channels_in, channels_out, 4, stride=2, padding=1, bias=False),
                    nn.BatchNorm2d(channels_out),
                    nn.LeakyReLU(0.2),
                )
            )
            channels_in = channels_out
        self.layers = nn.ModuleList(layers)

    def start_from(self, encoder: Encoder) -> None:
        """Becomes an encoder that gives what another one gives."""
        self.layers.load_state_dict(encoder.layers.state_dict())

    def forward(self, face: Tensor) -> list[Tensor]:
        """Features of every layer, shallow first.

        Args:
            face: ``(N, channels_in, S, S)``, a face in [-1, 1].

        Returns:
            ``depth`` tensors, the i-th ``(N, channels_at(width, i), S / 2**(i+1), S / 2**(i+1))``.
        """
        features = []
        h = face
        for layer in self.layers:
            h = layer(h)
            features.append(h)
        return self.refined(features)

    def refined(self, features: list[Tensor]) -> list[Tensor]:
        """What follows the layers: nothing here."""
        return features


class ContextEncoder(Encoder):
    """``Encoder`` whose shallow features know where in the face they are. Not in the paper.

    A 4x4 convolution sees 4 pixels, two see 10, three 22: the shallow features of Eq. 6, through which a
    fine perturbation must come, cannot tell an eye from an ear. From the deepest layer on, context comes
    back up: ``f_i + conv(lrelu(f_i + upsample(conv1x1(c_{i+1}))))``, the sum being ``c_i``. The last
    convolution starts at 0, where this is the plain encoder.

    Args:
        levels: how many layers above the deepest get context; the decoder's shortcuts.
    """

    def __init__(self, *, width: int, depth: int, levels: int) -> None:
        super().__init__(width=width, depth=depth)
        self.laterals = nn.ModuleList()
        self.refinements = nn.ModuleList()
        for level in range(depth - 2, depth - 2 - levels, -1):
            channels = channels_at(width, level)
            self.laterals.append(nn.Conv2d(channels_at(width, level + 1), channels, 1))
            self.refinements.append(
                nn.Sequential(nn.LeakyReLU(0.2), nn.Conv2d(channels, channels, 3, padding=1))
            )
        self._forget_context()

    def start_from(self, encoder: Encoder) -> None:
        """Becomes an encoder that gives what another one gives: its layers, and no context yet."""
        super().start_from(encoder)
        self._forget_context()

    def _forget_context(self) -> None:
        for refinement in self.refinements:
            for parameter in refinement.parameters():
                nn.init.zeros_(parameter)

    def refined(self, features: list[Tensor]) -> list[Tensor]:
        """The layers' features with context, shaped as they are."""
        features = list(features)
        context = features[-1]
        for above, (lateral, refine) in enumerate(zip(self.laterals, self.refinements, strict=True), 2):
            own = features[-above]
            coarse = functional.interpolate(lateral(context), scale_factor=2.0, mode="nearest")
            context = features[-above] = own + refine(own + coarse)
        return features


class Decoder(nn.Module):
    """``G_dec`` of Eq. 7: transposed convolution 4x4 stride 2, batch norm, ReLU; tanh at the end.

    The attribute vector joins the input of the first ``inject_layers`` layers, the encoder's features
    that of the ``shortcut_layers`` layers after the first.

    Args:
        width: channels of the encoder's first layer.
        depth: number of layers, the encoder's.
        n_attributes: length of the attribute vector; 0 for a decoder without one (the restorer's).
        shortcut_layers: how many encoder features below the bottleneck are handed over, < depth.
        inject_layers: how many layers after the first see the attributes again, < depth.
    """

    def __init__(
        self, *, width: int, depth: int, n_attributes: int, shortcut_layers: int = 1, inject_layers: int = 1
    ) -> None:
        super().__init__()
        if not (0 <= shortcut_layers < depth and 0 <= inject_layers < depth):
            raise ValueError(
                f"expected shortcut_layers and inject_layers in 0..{depth - 1}, "
                f"found {shortcut_layers} and {inject_layers}"
            )
        self.n_attributes = n_attributes
        self.shortcut_layers = shortcut_layers
        self.inject_layers = inject_layers
        layers: list[nn.Module] = []
        channels_in = channels_at(width, depth - 1) + n_attributes
        for level in range(depth):
            last = level == depth - 1
            channels_out = 3 if last else channels_at(width, depth - 1 - level)
            up = nn.ConvTranspose2d(channels_in, channels_out, 4, stride=2, padding=1, bias=last)
            layers.append(
                nn.Sequential(up, nn.Tanh())
                if last
                else nn.Sequential(up, nn.BatchNorm2d(channels_out), nn.ReLU())
            )
            channels_in = channels_out
            if level < shortcut_layers:
                channels_in += channels_at(width, depth - 2 - level)
            if level < inject_layers:
                channels_in += n_attributes
        self.layers = nn.ModuleList(layers)

    def forward(
        self,
        features: Sequence[Tensor],
        attributes: Tensor | None,
        *,
        clean: Sequence[Tensor] | None = None,
        injection: Tensor | float = 0.0,
    ) -> list[Tensor]:
        """Outputs of every layer; the last is the picture.

        Args:
            features: the encoder's output (``z`` of Eq. 7).
            attributes: ``(N, n_attributes)``, or None where the decoder takes none.
            clean: this method's output for the clean branch; each layer's output is fused with it
                (section IV-C): ``h <- (1 - gamma) h + gamma h_clean``.
            injection: gamma, a number or ``(N, 1, 1, 1)``, in [0, 1].

        Returns:
            ``depth`` tensors, the last ``(N, 3, S, S)`` in [-1, 1].
        """
        outputs: list[Tensor] = []
        h = self.with_attributes(features[-1], attributes)
        for level, layer in enumerate(self.layers):
            h = layer(h)
            if clean is not None:
                h = h + injection * (clean[level] - h)
            outputs.append(h)
            if level < self.shortcut_layers:
                h = torch.cat([h, features[-2 - level]], dim=1)
            if level < self.inject_layers:
                h = self.with_attributes(h, attributes)
        return outputs

    def with_attributes(self, h: Tensor, attributes: Tensor | None) -> Tensor:
        """``h`` with a plane for each attribute behind its channels; as it is in a decoder without any."""
        if self.n_attributes == 0:
            return h
        assert attributes is not None
        planes = attributes.to(h.dtype)[:, :, None, None].expand(-1, -1, h.shape[2], h.shape[3])
        return torch.cat([h, planes], dim=1)
