"""GMAA, one face at a time: a perturbation that holds over a whole manifold of the face's states."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Attack
from .stage_one import StageOne
from .surrogates import Surrogates

# Of AttGAN's attributes, what one person changes from photo to photo.
STATES = ("Mouth_Slightly_Open", "Bangs", "Eyeglasses", "Pale_Skin")


@dataclass(frozen=True, kw_only=True)
class ManifoldAttack(Attack):
    """Li et al., "Discrete Point-wise Attack Is Not Enough: Generalized Manifold Adversarial Attack".

    CVPR 2023. The face is moved along one attribute by a share drawn in every step; the target is a domain,
    too: its picture in every state. The perturbation climbs the cosine with momentum.

    Args:
        surrogates: attacked.
        stage_one: what moves faces along the manifold.
        levels: radius of the perturbation's L-infinity ball, in levels of 255.
        steps: of one level each, at most.
        momentum: of the gradients over their L1 norms.
    """

    surrogates: Surrogates
    stage_one: StageOne
    levels: float = 8.0
    steps: int = 30
    momentum: float = 1.0

    def perturb(self, faces: Tensor) -> Tensor:
        """See ``Attack.perturb``."""
        ways = self.ways_of(faces)
        with torch.no_grad():
            states = torch.cat([self.surrogates.target, self.surrogates.target + self._target_ways()])
            domain = self.surrogates.embeddings(states.clamp(0, 1))
        radius = self.levels / 255
        change, velocity = torch.zeros_like(faces), torch.zeros_like(faces)
        for _ in range(self.steps):
            which = torch.randint(len(ways), (len(faces),))
            share = torch.rand(len(faces), 1, 1, 1)
            moved = share * ways[which, torch.arange(len(faces))]
            wanted = torch.randint(len(states), (len(faces),))
            change = change.detach().requires_grad_()
            seen = (faces + moved + change).clamp(0, 1)
            cosine = self.surrogates.cosine_to(seen, [embedding[wanted] for embedding in domain])
            (found,) = torch.autograd.grad(cosine.sum(), change)
            norm = found.abs().sum((1, 2, 3), keepdim=True).clamp_min(1e-12)
            velocity = self.momentum * velocity + found / norm
            change = (change.detach() + velocity.sign() / 255).clamp(-radius, radius)
        return (faces + change).clamp(0, 1)

    @torch.no_grad()
    def ways_of(self, faces: Tensor) -> Tensor:
        """``(len(STATES), N, 3, S, S)``: what each attribute's edit adds to the faces."""
        own = self.stage_one.attributes_of(faces)
        itself = self.stage_one.edit(faces, own)
        known = [name for name in STATES if name in self.stage_one.attributes]
        edits = [self.stage_one.edit(faces, self.stage_one.flipped(own, name)) for name in known]
        return torch.stack(edits) - itself

    def _target_ways(self) -> Tensor:
        return self.ways_of(self.surrogates.target)[:, 0]
