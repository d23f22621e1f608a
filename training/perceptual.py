"""LPIPS (Zhang et al., 2018), by the reference implementation, as a loss and as a metric."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn


class PerceptualError(ValueError):
    """The weights of LPIPS's trunk cannot be used."""


class Lpips(nn.Module):
    """Perceptual distance of two pictures, frozen.

    Args:
        net: ``alex`` (the usual metric) or ``vgg``.
        trunk: torchvision's weights of that network (a state dict, whole or features alone). Nothing is
            downloaded.
        random: leave that network's weights random instead, to learn what it costs.

    Raises:
        PerceptualError: there is no file, or it is no such state dict.
    """

    def __init__(self, net: str = "alex", trunk: Path | None = None, *, random: bool = False) -> None:
        import lpips

        super().__init__()
        if trunk is None and not random:
            raise PerceptualError(
                f"LPIPS needs torchvision's weights of {net}, as a file (--lpips-trunk); "
                f"get them: python scripts/lpips_trunk.py {net} {net}.pth"
            )
        with warnings.catch_warnings():  # lpips calls torchvision as older versions wanted it
            warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
            self.distance = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        if trunk is not None:
            self._load_trunk(trunk)
        self.distance.eval().requires_grad_(False)
        self.to(memory_format=torch.channels_last)

    def forward(self, picture: Tensor, reference: Tensor) -> Tensor:
        """Distance of each pair, ``(N,)``, >= 0; differentiable in both.

        Under autocast the network runs in bfloat16, which changes the distance by about 0.5 %.

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
