"""Run configurations: overrides and the round trip through a checkpoint."""

import dataclasses

import pytest

from training.config import config_from_dict, override
from training.presets import PRESETS, SYSTEMS

EVERY_PRESET = [preset for presets in SYSTEMS.values() for preset in presets.values()]


@pytest.mark.parametrize("preset", EVERY_PRESET, ids=lambda preset: f"{preset.system}-{preset.name}")
def test_presets_round_trip(preset):
    assert config_from_dict(preset.to_dict()) == preset


def test_a_configuration_from_before_there_were_two_systems_is_the_masks():
    assert config_from_dict(dataclasses.asdict(PRESETS["compact"])) == PRESETS["compact"]


def test_overrides_reach_every_kind_of_field():
    config = override(
        PRESETS["compact"],
        [
            "seed=7",
            "attack.epochs=2",
            "attack.weights.attack=100",
            "attack_settings.second_order=false",
            "noise.jpeg_quality=30,90",
            "precision=fp32",
            "attributes.minutes=7.5",
            "erasure.minutes=none",
            "erasure.lr_schedule=cosine",
        ],
    )
    assert config.seed == 7
    assert config.attack.epochs == 2
    assert config.attack.weights["attack"] == 100.0
    assert config.attack_settings.second_order is False
    assert config.noise.jpeg_quality == (30.0, 90.0)
    assert config.precision == "fp32"
    assert config.attributes.minutes == 7.5
    assert config.erasure.minutes is None
    assert config.erasure.lr_schedule == "cosine"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("seed", "expected FIELD=VALUE"),
        ("attack.epoch=2", "no field 'attack.epoch'; there are: epochs"),
        ("attack.weights.attak=2", "no field 'attack.weights.attak'"),
        ("attack.epochs=many", "attack.epochs: expected a value like"),
        ("attack.minutes=soon", "attack.minutes: expected a value like 0.0, found 'soon'"),
        ("attack.minutes=0", "expected minutes > 0 or none, found 0.0"),
        ("attack.lr_schedule=linear", "expected lr_schedule constant or cosine, found 'linear'"),
        ("seed.x=1", "no field 'seed.x'"),
        ("attack.weights.attack.x=1", "no field 'attack.weights.attack.x'; there are: none below 'attack'"),
    ],
)
def test_bad_overrides_say_what_is_wrong(assignment, message):
    with pytest.raises(ValueError, match=message):
        override(PRESETS["compact"], [assignment])


def test_the_paper_preset_has_the_papers_settings():
    """Eqs. 14-16 and section V; ``L_rec`` of Eq. 15 is a constant while G is frozen, and left out."""
    paper = PRESETS["paper-256"]
    discriminator = {"discriminator": 1.0, "attribute_real": 1.0}  # Eqs. 3 and 4
    assert paper.attributes.weights == {
        "reconstruction": 150.0, "attribute": 10.0, "generator": 1.0, **discriminator
    }  # fmt: skip
    assert paper.attack.weights == {
        "attribute": 10.0, "generator": 1.0, "attack": 200.0, "erasure": 150.0, "perturbation": 1.0,
        **discriminator,
    }  # fmt: skip
    assert paper.erasure.weights == {"erasure": 1.0}
    stages = (paper.attributes, paper.attack, paper.erasure)
    assert [stage.epochs for stage in stages] == [200, 100, 50]
    assert {(stage.learning_rate, stage.lr_schedule, stage.minutes) for stage in stages} == {
        (2e-5, "constant", None)
    }
    assert not any(stage.ramps for stage in stages)
    attack, noise = paper.attack_settings, paper.noise
    assert paper.network.image_size == 256
    assert (attack.strength, attack.sigma, attack.inner_lr) == (0.5, 30.0, 2e-5)
    assert (attack.second_order, attack.meta_every, attack.primaries_per_step) == (True, 1, 0)
    assert (attack.owner_weight, attack.share_batch, attack.chroma_weight) == (0.0, False, 1.0)
    assert (attack.landmark_jitter, attack.edit_share, paper.realignment) == (0.0, 1.0, 0.0)
    assert (noise.jpeg_quality, noise.gaussian_variance, noise.resize_factor) == ((50.0, 50.0), 0.003, 0.25)
    assert (paper.paste_mask, paper.network.perturbation_context) == (False, False)


def test_the_gpu_preset_ships_as_compact_and_leaves_two_minutes():
    compact, gpu = PRESETS["compact"], PRESETS["gpu-25min"]
    assert gpu.network == compact.network
    stages = (gpu.attributes, gpu.attack, gpu.erasure)
    assert sum(stage.minutes for stage in stages) == 23
    assert gpu.attack.weights == compact.attack.weights
