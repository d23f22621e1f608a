"""Sibling-Attack: face recognition and attribute recognition take turns in moving the face."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Attack
from .stage_one import StageOne
from .surrogates import Surrogates

Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class SiblingAttack(Attack):
    """Li et al., "Sibling-Attack: Rethinking Transferable Adversarial Attacks against Face Recognition".

    CVPR 2023, with the step lengths and weights of its published code. A round belongs to one task: a few
    signed steps down its loss, then one step down the other task's, whose gradients along those steps are
    added with a small weight. The attribute task's loss is the cosine of the features before its head.

    Args:
        surrogates: for face recognition.
        stage_one: its discriminator for attribute recognition.
        levels: radius of the L-infinity ball, in levels of 255.
        rounds: of both tasks together.
        inner_steps: in a round.
        balance: gamma: share of the attribute task's own rounds' steps that face recognition gets.
        outer_step: alpha, of faces in [-1, 1].
        trace_weight: of the gradients along the inner steps.
    """

    surrogates: Surrogates
    stage_one: StageOne
    levels: float = 8.0
    rounds: int = 20
    inner_steps: int = 5
    balance: float = 0.1
    outer_step: float = 0.01
    trace_weight: float = 1e-4

    def perturb(self, faces: Tensor) -> Tensor:
        """See ``Attack.perturb``."""
        with torch.no_grad():
            target = torch.nn.functional.normalize(self.stage_one.features(self.surrogates.target))

        def recognition(x: Tensor) -> Tensor:
            return 1 - self.surrogates(x)

        def attributes(x: Tensor) -> Tensor:
            return 1 - torch.cosine_similarity(self.stage_one.features(x), target)

        x = faces
        for turn in range(1, self.rounds + 1):
            even = turn % 2 == 0
            inner, outer = (recognition, attributes) if even else (attributes, recognition)
            x = self._round(x, faces, inner, outer, self.balance if even else 1 - self.balance)
        return x

    def _round(self, x: Tensor, origin: Tensor, inner: Loss, outer: Loss, share: float) -> Tensor:
        """One round; ``share`` scales both its step lengths, which are of faces in [-1, 1]."""
        trace = []
        for _ in range(self.inner_steps):
            x = self._within(x - share / 255 / 2 * gradient(inner, x).sign(), origin)
            trace.append(x)
        gradients = [gradient(outer, point) for point in trace]
        direction = gradients[-1] + self.trace_weight * torch.stack(gradients).sum(0)
        return self._within(x - share * self.outer_step / 2 * direction.sign(), origin)

    def _within(self, x: Tensor, origin: Tensor) -> Tensor:
        radius = self.levels / 255
        return (origin + (x - origin).clamp(-radius, radius)).clamp(0, 1)


def gradient(loss: Loss, x: Tensor) -> Tensor:
    """Of a loss ``(N,)`` that is each face's own, with respect to the faces."""
    x = x.detach().requires_grad_()
    (found,) = torch.autograd.grad(loss(x).sum(), x)
    return found
