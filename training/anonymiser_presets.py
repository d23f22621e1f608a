"""The anonymiser's presets: what ``--preset`` names with ``--system anonymiser``."""

from __future__ import annotations

from .anonymiser_config import AnonymiserConfig, AnonymiserNetworkConfig, AnonymiserSettings
from .noise_pool import NoisePool
from .shared_config import StageConfig

# Sizes and noise are the mask's ``compact``; the weights are starting values that nothing has measured yet.
ANONYMISER_COMPACT = AnonymiserConfig(
    name="compact",
    network=AnonymiserNetworkConfig(
        image_size=128, width=24, depth=4, shortcut_layers=3, reconstructor_width=24
    ),
    anonymise=StageConfig(
        epochs=10,
        batch=24,
        learning_rate=5e-4,
        lr_schedule="cosine",
        weights={
            "reconstruction": 1.0,
            "structure": 1.0,
            "identity": 10.0,
            "pair": 5.0,
            "strangers": 5.0,
            "similarity": 5.0,
            "tone": 10.0,
            "recovery": 5.0,
        },
        ramps={"similarity": 0.3, "recovery": 0.3},
    ),
    settings=AnonymiserSettings(landmark_jitter=0.01),
    noise=NoisePool(jpeg_quality=(50.0, 95.0), gaussian_variance=0.001, resize_factor=0.5, clean_share=0.4),
    precision="bf16",
)

ANONYMISER_PRESETS = {preset.name: preset for preset in (ANONYMISER_COMPACT,)}
