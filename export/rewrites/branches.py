"""The generator's twins computed together: two decodings of one decoder, two encoders of one picture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.networks import Decoder, Encoder, Generator
from training.networks.generator import mix

from ..errors import ExportError


class BatchedBranches(nn.Module):
    """A generator whose clean and perturbed decodings are one batch of 2N (section IV-C).

    Args:
        generator: in evaluation mode; its parts are used, not copied.
        joined: both encoders as one; None runs them one after the other.
    """

    def __init__(self, generator: Generator, joined: JoinedEncoders | None = None) -> None:
        super().__init__()
        self.encoder = generator.encoder
        self.perturbation_encoder = generator.perturbation_encoder
        self.decoder: Decoder = generator.decoder
        self.joined = joined

    def forward(
        self, face: Tensor, attributes: Tensor, strength: Tensor | float, injection: Tensor | float
    ) -> Tensor:
        """See ``Generator.forward``."""
        if self.joined is None:
            clean, perturbed = self.encoder(face), self.perturbation_encoder(face)
        else:
            clean, perturbed = self.joined(face)
        both = [
            torch.cat([own, mixed]) for own, mixed in zip(clean, mix(clean, perturbed, strength), strict=True)
        ]
        n, decoder = face.shape[0], self.decoder
        twice = torch.cat([attributes, attributes])
        h = decoder.with_attributes(both[-1], twice)
        for level, layer in enumerate(decoder.layers):
            h = layer(h)
            own, mixed = h[:n], h[n:]
            mixed = mixed + injection * (own - mixed)
            if level == len(decoder.layers) - 1:
                return mixed
            h = torch.cat([own, mixed])
            if level < decoder.shortcut_layers:
                h = torch.cat([h, both[-2 - level]], dim=1)
            if level < decoder.inject_layers:
                h = decoder.with_attributes(h, twice)
        raise AssertionError("a decoder has layers")


class JoinedEncoders(nn.Module):
    """Two encoders of the same picture: the first layer one convolution, the later ones grouped.

    Args:
        first, second: of the same sizes, their batch norms folded; the second may add context.

    Raises:
        ExportError: they differ in size, or still have batch norms.
    """

    def __init__(self, first: Encoder, second: Encoder) -> None:
        super().__init__()
        if len(first.layers) != len(second.layers):
            raise ExportError(
                f"expected two encoders of one depth, found {len(first.layers)} and {len(second.layers)}"
            )
        pairs = zip(first.layers, second.layers, strict=True)
        self.layers = nn.ModuleList(
            _joined(one, other, groups=2 if level else 1) for level, (one, other) in enumerate(pairs)
        )
        self.refined = second.refined

    def forward(self, face: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Features of every layer of both, shallow first; see ``Encoder.forward``."""
        features: tuple[list[Tensor], list[Tensor]] = ([], [])
        h = face
        for layer in self.layers:
            h = layer(h)
            for own, half in zip(features, h.chunk(2, dim=1), strict=True):
                own.append(half)
        return features[0], self.refined(features[1])


def _joined(one: nn.Module, other: nn.Module, *, groups: int) -> nn.Sequential:
    first, first_bias, activation = _folded_layer(one)
    second, second_bias, same = _folded_layer(other)
    alike = ("kernel_size", "stride", "padding", "in_channels", "out_channels")
    if repr(activation) != repr(same) or any(getattr(first, a) != getattr(second, a) for a in alike):
        raise ExportError(f"expected two encoders of one size, found {one} and {other}")
    joined = nn.Conv2d(
        first.in_channels * groups,
        2 * first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]  # tuple[int, ...], always of two
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        groups=groups,
    )
    joined.weight = nn.Parameter(torch.cat([first.weight, second.weight]).detach(), requires_grad=False)
    joined.bias = nn.Parameter(torch.cat([first_bias, second_bias]).detach(), requires_grad=False)
    return nn.Sequential(joined, activation)


def _folded_layer(layer: nn.Module) -> tuple[nn.Conv2d, Tensor, nn.Module]:
    """A layer's convolution, the bias that a folded batch norm leaves it, and its activation."""
    match list(layer.children()):
        case [nn.Conv2d() as convolution, activation] if convolution.bias is not None:
            return convolution, convolution.bias, activation
    raise ExportError(f"expected an encoder's layer with a folded batch norm, found {layer}")
