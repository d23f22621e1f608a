"""Projected gradient descent (Madry et al., 2018) on the cosine of two embeddings.

Not foolbox's, as in ``attacks``: that one goes backward through the recogniser's weights, too, which train
here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Faces ``(N, 3, H, W)`` in [0, 1] to unit-norm embeddings ``(N, d)``.
Embed = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Pgd:
    """The attack's budget.

    Attributes:
        epsilon: largest change of a channel of a pixel, of [0, 1] (the paper's: 4/255).
        steps: gradient steps, each of ``step`` in the gradient's sign.
        step: length of a step, of [0, 1].
    """

    epsilon: float = 4 / 255
    steps: int = 2
    step: float = 3 / 255

    def __call__(self, embed: Embed, faces: Tensor, goals: Tensor, towards: Tensor) -> Tensor:
        """Faces at most ``epsilon`` away, from a random start; draws from torch's global generator.

        Args:
            faces: ``(N, 3, H, W)`` in [0, 1].
            goals: ``(N, d)`` unit-norm embeddings.
            towards: ``(N,)``, 1 to become like the goal, -1 to become unlike it.
        """
        moved = (faces + self.epsilon * (2 * torch.rand_like(faces) - 1)).clamp(0, 1)
        for _ in range(self.steps):
            moved.requires_grad_(True)
            cosines = (embed(moved) * goals).sum(1)
            (gradient,) = torch.autograd.grad((towards * cosines).sum(), moved)
            with torch.no_grad():
                stepped = moved + self.step * gradient.sign()
                moved = faces + (stepped - faces).clamp(-self.epsilon, self.epsilon)
                moved = moved.clamp(0, 1)
        return moved.detach()
