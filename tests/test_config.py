"""Run configurations: overrides and the round trip through a checkpoint."""

import dataclasses

import pytest

from training.config import config_from_dict, override
from training.presets import PRESETS


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_presets_round_trip(preset):
    assert config_from_dict(dataclasses.asdict(preset)) == preset


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


def test_the_gpu_preset_ships_as_compact_and_leaves_two_minutes():
    compact, gpu = PRESETS["compact"], PRESETS["gpu-25min"]
    assert gpu.network == compact.network
    stages = (gpu.attributes, gpu.attack, gpu.erasure)
    assert sum(stage.minutes for stage in stages) == 23
    assert gpu.attack.weights == compact.attack.weights
