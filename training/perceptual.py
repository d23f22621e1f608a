"""LPIPS (Zhang et al., 2018), by the reference implementation, as a loss and as a metric."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn


class PerceptualError(ValueError):
    """The weights of LPIPS's trunk cannot be used."""


class Lpips(nn.Module):
    """Perceptual distance of two pictures, frozen.

    Args:
        net: ``alex`` (the usual metric) or ``vgg``.
        trunk: torchvision's weights of that network (a state dict, whole or features alone), for machines
            without a network; None lets torchvision download or find them.
        random: leave that network's weights random, to learn what it costs.

    Raises:
        PerceptualError: the file is missing or is no such state dict.
    """

    def __init__(self, net: str = "alex", trunk: Path | None = None, *, random: bool = False) -> None:
        import lpips

        super().__init__()
        self.distance = lpips.LPIPS(net=net, pnet_rand=random or trunk is not None, verbose=False)
        if trunk is not None:
            self._load_trunk(trunk)
        self.distance.eval().requires_grad_(False)
        self.to(memory_format=torch.channels_last)

    def forward(self, picture: Tensor, reference: Tensor) -> Tensor:
        """Distance of each pair, ``(N,)``, >= 0; differentiable in both.

        Args:
            picture, reference: ``(N, 3, H, W)`` RGB in [-1, 1].
        """
        return self.distance(picture, reference).flatten().float()

    def _load_trunk(self, path: Path) -> None:
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise PerceptualError(f"{path}: cannot be read as a state dict: {error}") from error
        # lpips cuts the trunk into slices: net.slice2.3.weight is torchvision's features.3.weight.
        ours = self.distance.net.state_dict()
        theirs = {}
        for name in ours:
            layer = name.split(".", 1)[1]
            found = weights.get(f"features.{layer}", weights.get(layer))
            if found is None or found.shape != ours[name].shape:
                raise PerceptualError(
                    f"{path}: expected torchvision's layer {layer} of {tuple(ours[name].shape)}"
                )
            theirs[name] = found
        self.distance.net.load_state_dict(theirs)
