"""Losses of both systems as pure functions, unweighted, one number per call."""

from .adversarial import discriminator_loss, generator_loss
from .attack import adversarial_attack_loss, impersonation_loss, surrogate_weights
from .attributes import attribute_loss
from .identity import identity_loss, owner_loss, release_loss, stranger_loss
from .pixel import erasure_loss, perceptual_loss, perturbation_loss, reconstruction_loss
from .similarity import similarity_loss, ssim, structure_loss, tone_loss
from .visibility import visibility_loss

__all__ = [
    "adversarial_attack_loss",
    "attribute_loss",
    "discriminator_loss",
    "erasure_loss",
    "generator_loss",
    "identity_loss",
    "impersonation_loss",
    "owner_loss",
    "perceptual_loss",
    "perturbation_loss",
    "reconstruction_loss",
    "release_loss",
    "similarity_loss",
    "ssim",
    "stranger_loss",
    "structure_loss",
    "surrogate_weights",
    "tone_loss",
    "visibility_loss",
]
