"""FGSM, PGD, MI-FGSM and TI-DIM, by foolbox, towards the target's embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import eagerpy
import torch
from foolbox import PyTorchModel
from foolbox.attacks import (
    LinfFastGradientAttack,
    LinfMomentumIterativeFastGradientMethod,
    LinfProjectedGradientDescentAttack,
)
from foolbox.attacks.gradient_descent_base import normalize_lp_norms
from foolbox.criteria import Misclassification
from torch import Tensor
from torch.nn import functional

from .base import Attack
from .surrogates import Surrogates

Loss = Callable[[eagerpy.Tensor], eagerpy.Tensor]


class _CosineMixin:
    """foolbox's untargeted attacks climb their loss; this loss is the mean cosine to the target."""

    def get_loss_fn(self, model: Any, labels: eagerpy.Tensor) -> Loss:
        return lambda faces: model(faces).sum()


class Fgsm(_CosineMixin, LinfFastGradientAttack):
    """Goodfellow, Shlens, Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015."""


class Pgd(_CosineMixin, LinfProjectedGradientDescentAttack):
    """Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018."""


class MiFgsm(_CosineMixin, LinfMomentumIterativeFastGradientMethod):
    """Dong et al., "Boosting Adversarial Attacks with Momentum", CVPR 2018.

    foolbox adds up the signs of the gradients; the paper (Eq. 6) adds up gradients over their L1 norms.
    """

    def normalize(self, gradients: eagerpy.Tensor, **_: Any) -> eagerpy.Tensor:
        return normalize_lp_norms(gradients, p=1)


class TiDim(MiFgsm):
    """Dong et al., "Evading Defenses to Transferable Adversarial Examples", CVPR 2019, on DIM.

    The recognisers see each face resized and padded at random (Xie et al., CVPR 2019), and the gradient is
    smoothed, as if of the face at every small shift.

    Args:
        kernel_px: side of the Gaussian that smooths; its deviation is a sixth of it.
        diversity: share of the steps in which faces are resized.
        smallest: least size after resizing, as a share of the face.
    """

    def __init__(
        self, *, kernel_px: int = 7, diversity: float = 0.7, smallest: float = 0.9, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.diversity = diversity
        self.smallest = smallest
        line = torch.exp(-0.5 * (6 * torch.linspace(-0.5, 0.5, kernel_px)) ** 2)
        self.kernel = torch.outer(line / line.sum(), line / line.sum()).expand(3, 1, -1, -1)

    def get_loss_fn(self, model: Any, labels: eagerpy.Tensor) -> Loss:
        return lambda faces: model(eagerpy.astensor(self.resized(faces.raw))).sum()

    def resized(self, faces: Tensor) -> Tensor:
        """Faces made smaller and padded with black, at a place drawn at random."""
        side = faces.shape[-1]
        least = int(self.smallest * side)
        if torch.rand(()) >= self.diversity:
            return faces
        size = int(torch.randint(least, side, ()))
        top, left = (int(torch.randint(0, side - size + 1, ())) for _ in range(2))
        small = functional.interpolate(faces, size=(size, size), mode="bilinear", align_corners=False)
        return functional.pad(small, (left, side - size - left, top, side - size - top))

    def value_and_grad(self, loss_fn: Loss, x: eagerpy.Tensor) -> tuple[eagerpy.Tensor, eagerpy.Tensor]:
        loss, gradient = super().value_and_grad(loss_fn, x)
        smooth = functional.conv2d(gradient.raw, self.kernel, padding="same", groups=3)
        return loss, eagerpy.astensor(smooth)


METHODS = {"FGSM": Fgsm, "PGD": Pgd, "MI-FGSM": MiFgsm, "TI-DIM": TiDim}


@dataclass(frozen=True, kw_only=True)
class GradientAttack(Attack):
    """One of ``METHODS``, within an L-infinity ball.

    Args:
        surrogates: whose gradients are followed.
        method: a key of ``METHODS``.
        levels: radius of the ball, in levels of 255.
        steps: gradient steps; 1 for FGSM.
        step_levels: length of one; the whole radius for FGSM.
    """

    surrogates: Surrogates
    method: str
    levels: float
    steps: int
    step_levels: float

    def perturb(self, faces: Tensor) -> Tensor:
        """See ``Attack.perturb``."""
        if self.method == "FGSM":
            attack = Fgsm()
        else:
            attack = METHODS[self.method](abs_stepsize=self.step_levels / 255, steps=self.steps)
        model = PyTorchModel(self.surrogates, bounds=(0, 1), device=faces.device)
        # Untargeted: the sign alone of this criterion is used, its labels are not.
        nobody = Misclassification(torch.zeros(len(faces), dtype=torch.long))
        return attack.run(model, faces, nobody, epsilon=self.levels / 255)
