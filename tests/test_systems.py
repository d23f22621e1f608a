"""``python -m training --system``: the anonymiser from files to a trained run; which options are whose."""

import dataclasses
import json
from functools import partial

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper, save

from tests.tiny_anonymiser import ANONYMISER, STEPS
from tests.tiny_training import tiny_pack
from training import anonymiser_presets
from training.__main__ import main
from training.checkpoint import load_anonymiser, load_checkpoint
from training.data.pack import write_pack
from training.plan import make_plan


@pytest.fixture
def inputs(tmp_path):
    """Prepared packs and two recognisers, as options of the command."""
    for split in ("train", "validation"):
        write_pack(tmp_path / "data" / split, tiny_pack())
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        weight = numpy_helper.from_array(rng.normal(size=(6, 3, 7, 7)).astype(np.float32), "weight")
        nodes = [
            helper.make_node("Conv", ["face", "weight"], ["features"], strides=[7, 7]),
            helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["embedding"], axis=1),
        ]
        face = helper.make_tensor_value_info("face", TensorProto.FLOAT, ["n", 3, 28, 28])
        embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 6])
        graph = helper.make_graph(nodes, name, [face], [embedding], [weight])
        opset = [helper.make_opsetid("", 17)]
        save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / f"{name}.onnx")
    card = {"role": "white-box", "size": [28, 28], "box": [0, 0, 112, 112]}
    (tmp_path / "cards.json").write_text(json.dumps({"models": {"one": card, "two": card}}))
    return ["--data", tmp_path / "data", "--surrogates", tmp_path / "cards.json", "--out", tmp_path / "run"]


def train(*options):
    command = ["--system", "anonymiser", "--accelerator", "cpu", *map(str, options)]
    return CliRunner().invoke(main, command)


def test_the_command_trains_an_anonymiser_and_goes_on_where_it_stopped(inputs, tmp_path, monkeypatch):
    monkeypatch.setitem(anonymiser_presets.ANONYMISER_PRESETS, "tiny", ANONYMISER)
    for steps in ("3", "9"):
        done = train("--preset", "tiny", *inputs, "--steps", steps, "--set", "settings.tone_bound=0.3")
        assert done.exit_code == 0, (done.output, done.exception)
    config, _, about = load_anonymiser(tmp_path / "run")
    assert config.settings.tone_bound == 0.3
    assert (about["steps"], about["stage"], about["surrogates"]) == (STEPS, "done", ["one", "two"])
    assert about.keys().isdisjoint({"target", "attributes"})
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["config"]["system"] == "anonymiser"
    names = [path.name for path in (tmp_path / "run" / "samples").iterdir()]
    assert "anonymise-001.png" in names
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["stage"] == "anonymise"

    again = train("--preset", "tiny", *inputs)
    assert again.exit_code == 1
    assert "settings.tone_bound was 0.3, is 0.1" in again.output


def test_a_masks_checkpoint_says_so(tmp_path):
    from tests.tiny_training import Silent, tiny_run

    tiny_run(tmp_path).train(Silent(), stop_after_steps=1)
    assert load_checkpoint(tmp_path)["config"]["system"] == "mask"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "missing --data, --surrogates, --out; only --dry-run does without"),
        (["--target-text", "nobody"], "--target-text belongs to --system mask; the anonymiser has none"),
        (["--from-stage", "attack"], "expected --from-stage anonymise for the anonymiser, found attack"),
        (["--set", "attack.epochs=1"], "no field 'attack.epochs'; there are: name, network"),
        (["--set", "settings.strength=2"], "expected strength in [0, 1], found 2.0"),
    ],
)
def test_what_is_the_masks_is_refused(options, message):
    done = train("--preset", "compact", *options)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


def test_a_dry_run_counts_the_anonymisers_networks(tmp_path, monkeypatch):
    """Both are trained; two stand-ins without weights take the recognisers' place."""
    monkeypatch.setitem(anonymiser_presets.ANONYMISER_PRESETS, "tiny", ANONYMISER)
    monkeypatch.setattr("training.plan.make_plan", partial(make_plan, seconds_per_stage=0.01))
    out = tmp_path / "plan.json"
    done = train("--preset", "tiny", "--dry-run", "--limit", "800", "--json", out)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "Steps need recognisers" in done.output
    figures = json.loads(out.read_text())
    [(name, stage)] = figures["stages"].items()
    networks = ANONYMISER.network.networks().items().values()
    parameters = sum(p.numel() for network in networks for p in network.parameters())
    assert (name, stage["trained"], stage["frozen"]) == ("anonymise", parameters, 0)
    assert (figures["config"]["system"], stage["steps"]) == ("anonymiser", 2 * 200)
    assert stage["flops_per_face"] > 0
    assert len(figures["parts_ms_per_face"]) == 3


def test_an_unknown_preset_names_the_systems_own():
    done = train("--preset", "paper-256")
    assert "expected one of compact, found 'paper-256'" in done.output
    masks = CliRunner().invoke(main, ["--preset", "compact", "--from-stage", "anonymise"])
    assert "expected --from-stage attack or erasure for the mask, found anonymise" in masks.output


def test_the_preset_makes_networks_that_fit_a_small_bundle():
    config = anonymiser_presets.ANONYMISER_COMPACT
    parameters = sum(p.numel() for p in config.network.anonymiser().parameters())
    assert 2 * parameters < 4 * 2**20  # bytes in float16
    assert dataclasses.replace(config.network, stochastic=False).anonymiser().share == 0
