"""Batch norms folded into the convolutions they follow."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..errors import ExportError


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Folds every batch norm into the convolution, plain or transposed, that it follows.

    In evaluation mode a batch norm is ``y = a x + b`` for each channel, with fixed ``a`` and ``b``; so is
    its convolution's output layer, and the two are one: weights ``a W``, bias ``a c + b``.

    Args:
        network: in evaluation mode; not changed.

    Returns:
        A copy without batch norms.

    Raises:
        ExportError: the network is in training mode, or a batch norm does not directly follow a
            convolution inside an ``nn.Sequential``.
    """
    if network.training:
        raise ExportError("batch norms fold in evaluation mode only; call network.eval() first")
    network = copy.deepcopy(network)
    _fold_children(network)
    left = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    if left:
        raise ExportError(
            f"expected every batch norm right after a convolution in a Sequential; not so: {', '.join(left)}"
        )
    return network


def _fold_children(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential):
            child = nn.Sequential(*_folded(list(child))).eval()
            setattr(module, name, child)
        _fold_children(child)


def _folded(layers: list[nn.Module]) -> list[nn.Module]:
    folded: list[nn.Module] = []
    for layer in layers:
        before = folded[-1] if folded else None
        if isinstance(layer, nn.BatchNorm2d) and isinstance(before, nn.Conv2d | nn.ConvTranspose2d):
            transposed = isinstance(before, nn.ConvTranspose2d)
            if transposed and before.groups > 1:
                raise ExportError(
                    f"a batch norm folds into transposed convolutions of one group only, found {before}"
                )
            folded[-1] = fuse_conv_bn_eval(before, layer, transpose=transposed)
        else:
            folded.append(layer)
    return folded
