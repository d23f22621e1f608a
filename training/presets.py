"""The mask's presets, and every system's: what ``--preset`` names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .anonymiser_presets import ANONYMISER_PRESETS
from .config import AttackConfig, NetworkConfig, RunConfig, SharedConfig, StageConfig
from .noise_pool import NoisePool

PAPER_256 = RunConfig(
    name="paper-256",
    network=NetworkConfig(
        image_size=256,
        width=64,
        depth=5,
        shortcut_layers=1,
        inject_layers=1,
        discriminator_width=64,
        discriminator_depth=5,
        discriminator_hidden=1024,
        discriminator_max_channels=1024,
    ),
    attributes=StageConfig(
        epochs=200,
        batch=32,
        learning_rate=2e-5,
        weights={
            "reconstruction": 150.0,
            "attribute": 10.0,
            "generator": 1.0,
            "discriminator": 1.0,
            "attribute_real": 1.0,
        },
    ),
    attack=StageConfig(
        epochs=100,
        batch=16,
        learning_rate=2e-5,
        weights={
            "attribute": 10.0,
            "generator": 1.0,
            "attack": 200.0,
            "erasure": 150.0,
            "perturbation": 1.0,
            "discriminator": 1.0,
            "attribute_real": 1.0,
        },
    ),
    erasure=StageConfig(epochs=50, batch=32, learning_rate=2e-5, weights={"erasure": 1.0}),
    paste_mask=False,
)

# A size that two CPU cores train in hours and serve in milliseconds: 128 px, half AttGAN's width, four
# layers, all shortcuts (sharper pictures). Its norms are half those at 256 px. Weights and learning
# rate suit a schedule of a few epochs; docs/training.md says how they were chosen.
COMPACT = RunConfig(
    name="compact",
    network=NetworkConfig(
        image_size=128,
        width=32,
        depth=4,
        shortcut_layers=3,
        inject_layers=1,
        discriminator_width=32,
        discriminator_depth=5,
        discriminator_hidden=128,
        discriminator_max_channels=256,
        perturbation_context=True,
    ),
    attributes=StageConfig(
        epochs=4,
        batch=32,
        learning_rate=5e-4,
        weights={
            "reconstruction": 150.0,
            "attribute": 4.0,
            "generator": 1.0,
            "discriminator": 1.0,
            "attribute_real": 1.0,
        },
    ),
    attack=StageConfig(
        epochs=10,
        batch=24,
        learning_rate=3e-4,
        lr_schedule="cosine",
        weights={
            "attribute": 0.2,
            "generator": 0.05,
            "attack": 200.0,
            "erasure": 8.0,
            "perturbation": 3.0,
            "lpips": 400.0,
            "visibility": 2000.0,
            "discriminator": 1.0,
            "attribute_real": 1.0,
        },
        ramps={"erasure": 0.5, "perturbation": 0.5, "lpips": 0.5, "visibility": 0.5},
    ),
    erasure=StageConfig(
        epochs=10,
        batch=36,
        learning_rate=3e-4,
        lr_schedule="cosine",
        weights={"erasure": 1.0, "identity": 30.0, "release": 100.0},
    ),
    attack_settings=AttackConfig(
        sigma=8.0,
        chroma_weight=4.5,
        epsilon=0.7,
        inner_lr=0.3,
        primaries_per_step=1,
        meta_every=4,
        owner_weight=1.0,
        owner_margin=0.15,
        share_batch=True,
        landmark_jitter=0.01,
        lpips_bound=0.01,
        edit_share=0.5,
    ),
    noise=NoisePool(jpeg_quality=(50.0, 95.0), gaussian_variance=0.001, resize_factor=0.5, clean_share=0.4),
    precision="bf16",
    realignment=0.01,
    release_margin=-0.1,
)

# The best model that 25 minutes of one H100 give, all three stages: compact's networks and losses (wider
# ones would not fit beside them: with width 36 both bundles exceed 20 MiB), larger batches, and minutes
# instead of epochs; two are left for loading and saving. Its learning rates grow by about the square root of
# the batch and have not been tried yet.
GPU_25MIN = replace(
    COMPACT,
    name="gpu-25min",
    attributes=replace(
        COMPACT.attributes, epochs=1000, minutes=6.0, batch=256, learning_rate=1e-3, lr_schedule="cosine"
    ),
    attack=replace(
        COMPACT.attack, epochs=1000, minutes=13.0, batch=252, learning_rate=1e-3, lr_schedule="cosine"
    ),
    erasure=replace(
        COMPACT.erasure, epochs=1000, minutes=4.0, batch=504, learning_rate=1e-3, lr_schedule="cosine"
    ),
)

PRESETS = {preset.name: preset for preset in (PAPER_256, COMPACT, GPU_25MIN)}

# By ``--system``.
SYSTEMS: dict[str, Mapping[str, SharedConfig]] = {"mask": PRESETS, "anonymiser": ANONYMISER_PRESETS}
