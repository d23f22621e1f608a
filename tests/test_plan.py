"""The dry run: counts worked out by hand, the time's arithmetic, and what the command needs."""

import dataclasses
import json
from functools import partial

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from tests.tiny_training import CONFIG, tiny_recognizer, tiny_run
from training import plan as plan_module
from training import presets
from training.__main__ import main
from training.parts import time_parts
from training.perceptual import Lpips
from training.plan import Plan, StagePlan, make_plan
from training.plan_table import plan_table
from training.probe import first_batch, matrix_rate, peak_bytes, random_faces
from training.ranks import launch

CPU = torch.device("cpu")
FORMATS_TOLD = ("fp32, channels first", "fp32, channels last", "bf16, channels last")
MINI = dataclasses.replace(
    CONFIG,
    name="mini",
    attack=dataclasses.replace(
        CONFIG.attack, ramps={}, weights={k: w for k, w in CONFIG.attack.weights.items() if k != "lpips"}
    ),
)


@pytest.fixture(scope="module")
def plan() -> Plan:
    recognizers = [tiny_recognizer(i) for i in range(2)]
    return make_plan(MINI, recognizers, faces=1000, ranks=launch(accelerator="cpu"), seconds_per_stage=0.01)


def stage_plan(**changes) -> StagePlan:
    defaults = {
        "name": "attributes",
        "config": dataclasses.replace(MINI.attributes, epochs=3, batch=10),
        "steps_per_epoch": 20,
        "trained": 1,
        "frozen": 1,
        "flops_per_face": 5e9,
        "state_bytes": 1000,
        "probe_batch": 2,
        "probe_bytes": 300,
        "faces_per_s": 4.0,
    }
    return StagePlan(**{**defaults, **changes})


def test_parameters_are_those_of_the_players(plan):
    networks = (MINI.network.generator(), MINI.network.restorer(), MINI.network.discriminator())
    generator, restorer, discriminator = (sum(p.numel() for p in n.parameters()) for n in networks)
    perturbation = sum(p.numel() for p in networks[0].perturbation_encoder.parameters())
    attributes, attack, erasure = plan.stages
    assert attributes.trained == generator - perturbation + discriminator
    assert attack.trained == perturbation + restorer + discriminator
    assert erasure.trained == restorer
    assert attributes.trained + attributes.frozen == generator + restorer + discriminator
    assert attack.frozen > generator - perturbation  # the recognisers are among them
    assert erasure.frozen > generator + discriminator  # and here, for the identity term


def test_flops_of_the_last_stage_add_up(plan):
    """One pass of the generator, three of the restorer less its first layer's gradient to the input.

    The tiny recognisers and JPEG's matrix products are the slack.
    """
    face, attributes = torch.zeros(1, 3, 32, 32), torch.zeros(1, 3)
    generator, restorer = MINI.network.generator().eval(), MINI.network.restorer().eval()
    with FlopCounterMode(display=False) as protecting, torch.no_grad():
        generator(face, attributes, 0.5, 0.05)
    with FlopCounterMode(display=False) as restoring, torch.no_grad():
        restorer(face)
    forward, once = protecting.get_total_flops(), restoring.get_total_flops()
    counted = plan.stages[2].flops_per_face
    assert forward + 2.5 * once < counted <= forward + 3 * once + 1e6


def test_recognizers_add_to_the_attack_and_to_the_identity_term(plan):
    alone = make_plan(MINI, [], faces=1000, ranks=launch(accelerator="cpu"), seconds_per_stage=0.01)
    assert alone.recognizers == ()
    assert plan.recognizers == ("r0", "r1")
    assert plan.stages[1].flops_per_face > alone.stages[1].flops_per_face
    assert plan.stages[2].flops_per_face > alone.stages[2].flops_per_face
    assert plan.stages[0].flops_per_face == alone.stages[0].flops_per_face


def test_time_memory_and_share_follow_from_what_was_measured(plan):
    """3 * 20 steps of 10 faces at 4 a second: 150 s. 300 bytes at 2 faces are 1500 at 10."""
    stage = stage_plan()
    assert (stage.steps, stage.seconds, stage.epochs) == (60, 150, 3)
    assert stage.memory_bytes == 2500
    limited = stage_plan(config=dataclasses.replace(stage.config, minutes=0.5))
    assert (limited.seconds, limited.epochs) == (30, 0.6)
    rated = dataclasses.replace(plan, rates={"fp32": 100e9, "bf16": 1.0})
    assert rated.share(stage) == pytest.approx(0.2)


def test_the_table_says_how_each_figure_was_come_by(plan):
    shown = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    shown.print(plan_table(plan, "assumed"))
    text = shown.export_text()
    for word in ("counted", "measured", "estimated", "mini: 1000 faces", "1000 assumed", "r0, r1"):
        assert word in text, word
    shown.print(plan_table(dataclasses.replace(plan, recognizers=()), "assumed"))
    assert "need recognisers (--surrogates)" in shown.export_text()


def test_the_probe_measures():
    assert matrix_rate(CPU, torch.float32, seconds=0.01) > 1e6
    assert peak_bytes(lambda: torch.ones(64, 2**20), CPU) > 200 * 2**20  # 256 MiB, written to
    faces = random_faces(4, 32, 3)
    batch = first_batch(faces, 3)
    assert batch.face.shape == (3, 3, 32, 32)
    assert batch.landmarks.min() > 0
    assert batch.landmarks.max() < 32


def test_the_command_needs_nothing_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "mini", MINI)
    monkeypatch.setattr("training.plan.make_plan", partial(make_plan, seconds_per_stage=0.01))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["--preset", "mini", "--dry-run", "--limit", "800"])
    assert done.exit_code == 0, done.output
    assert "800 as --limit says" in " ".join(done.output.split())
    assert list(tmp_path.iterdir()) == []


def test_the_figures_are_written_where_asked(tmp_path, monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "mini", MINI)
    monkeypatch.setattr("training.plan.make_plan", partial(make_plan, seconds_per_stage=0.01))
    out = tmp_path / "plan.json"
    done = CliRunner().invoke(
        main, ["--preset", "mini", "--dry-run", "--limit", "800", "--json", str(out), "--set", "seed=7"]
    )
    assert done.exit_code == 0, done.output
    figures = json.loads(out.read_text())
    assert (figures["faces"], figures["config"]["seed"]) == (800, 7)
    assert figures["stages"].keys() == {"attributes", "attack", "erasure"}
    for stage in figures["stages"].values():
        assert stage["ms_per_face"] == pytest.approx(1000 / stage["faces_per_s"])
    refused = CliRunner().invoke(main, ["--preset", "mini", "--json", str(out)])
    assert refused.exit_code == 2
    assert "--json is for the figures of --dry-run" in refused.output


def test_every_network_of_a_step_is_measured_alone(plan):
    formats = [f"encoder and decoder, {kind}" for kind in FORMATS_TOLD]
    assert [part.name for part in plan.parts] == [*formats, "r0, fp32", "r1, fp32"]
    assert all(part.ms_per_face > 0 for part in plan.parts)
    perceptual = Lpips("alex", random=True)
    parts = time_parts(MINI.network, [], perceptual, CPU, seconds_per_part=0.001)
    assert [part.name for part in parts] == [*formats, "LPIPS, fp32"]


def test_training_still_needs_its_inputs():
    done = CliRunner().invoke(main, ["--preset", "compact"])
    assert done.exit_code == 2
    assert "missing --data, --surrogates, --target, --out; only --dry-run does without" in done.output


def test_micro_batches_are_measured_as_they_are_trained(monkeypatch):
    seen = set()

    def counted(stage, batch, *args, micro_batches, **options):
        seen.add((stage.name, micro_batches))
        assert len(batch.split(micro_batches)) == micro_batches
        return take_step(stage, batch, *args, micro_batches=micro_batches, **options)

    take_step = plan_module.take_step
    monkeypatch.setattr(plan_module, "take_step", counted)
    shared = dataclasses.replace(MINI.attack_settings, share_batch=True)
    config = dataclasses.replace(MINI, accumulate=2, attack_settings=shared)
    make_plan(config, [], faces=8, ranks=launch(accelerator="cpu"), seconds_per_stage=0.01)
    assert seen == {("attributes", 2), ("attack", 2), ("erasure", 2)}


@pytest.mark.parametrize("option", ["--limit", "--steps", "--threads", "--devices", "--accumulate"])
def test_none_of_something_is_bad_usage(option):
    done = CliRunner().invoke(main, ["--preset", "compact", "--dry-run", option, "0"])
    assert done.exit_code == 2
    assert f"Invalid value for '{option}': 0 is not in the range x>=1" in done.output


TOO_FEW_TO_SHARE = ("--set", "attack_settings.share_batch=true", "--set", "attack.batch=1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--limit", "3"], "expected at least one batch of 4 faces, found 3"),
        (["--accumulate", "3"], "a batch of 4 faces cannot be divided equally"),
        (TOO_FEW_TO_SHARE, "expected a batch of at least 2 faces to share, found 1"),
    ],
)
def test_what_cannot_be_trained_cannot_be_planned(monkeypatch, options, message):
    monkeypatch.setitem(presets.PRESETS, "mini", MINI)
    done = CliRunner().invoke(main, ["--preset", "mini", "--dry-run", *options])
    assert (done.exit_code, type(done.exception)) == (1, SystemExit)
    assert f"Error: {message}" in done.output


def test_training_refuses_settings_but_hides_no_bug(tmp_path, monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "mini", MINI)
    needed = [f"{option}={tmp_path}" for option in ("--data", "--surrogates", "--target", "--out")]
    command = ["--preset", "mini", *needed, *TOO_FEW_TO_SHARE]
    monkeypatch.setattr("training.recipe.train", lambda job, **_: tiny_run(tmp_path, job.config))
    done = CliRunner().invoke(main, command)
    assert (done.exit_code, type(done.exception)) == (1, SystemExit)
    assert "Error: expected a batch of at least 3 faces to share, found 1" in done.output
    monkeypatch.setattr("training.recipe.train", lambda job, **_: int("a bug"))
    assert isinstance(CliRunner().invoke(main, command).exception, ValueError)
