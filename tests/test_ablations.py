"""Ablations: what is run for a variant, that nothing is run twice, and the table and plot of a result."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks.efficacy import ablation_plot, ablations
from training.config import override
from training.presets import COMPACT


@pytest.mark.parametrize("name", ablations.VARIANTS)
def test_every_variant_is_a_configuration_that_differs_from_the_reference(name: str) -> None:
    def configured(settings: dict[str, str]):
        return override(COMPACT, [f"{key}={value}" for key, value in settings.items()])

    reference = configured(ablations.REFERENCE)
    variant = configured({**ablations.REFERENCE, **ablations.VARIANTS[name]})
    assert (variant == reference) == (name == "reference")


def measured(asr: float) -> dict:
    def estimate(value: float) -> dict:
        return {"value": value, "low": value / 2, "high": 1.0, "count": 100}

    row = {key: estimate(value) for key, value in {"asr": asr, "esr": 0.9, "dodging": 0.5}.items()}
    quality = {"ssim": estimate(0.8), "lpips": estimate(0.07)}
    return {
        "recognizers": {"a": {"role": "white-box", **row}, "b": {"role": "black-box", **row}},
        "quality": {"protected against edited": quality, "restored against clean": quality},
    }


def test_variants_are_trained_and_measured_once(tmp_path, monkeypatch) -> None:
    calls = []

    def fake(module: str, *arguments: object) -> None:
        calls.append((module, [str(argument) for argument in arguments]))
        if module == "training.evaluation":
            out = calls[-1][1][calls[-1][1].index("--out") + 1]
            with open(f"{out}.json", "w", encoding="utf-8") as file:
                json.dump(measured(0.6), file)

    monkeypatch.setattr(ablations, "_run", fake)
    (tmp_path / "file").write_text("{}")
    (tmp_path / "base").mkdir()
    options = dict.fromkeys(("recognizers", "target", "thresholds"), "file") | {
        "base": "base",
        "data": "base",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(tmp_path / value))]
    arguments += ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out.json"), "--only", "gamma 0"]
    for _ in range(2):
        result = CliRunner().invoke(ablations.command, arguments)
        assert result.exit_code == 0, result.output
    assert [module for module, _ in calls] == ["training", "training.evaluation"]
    assert "attack_settings.injection=0" in calls[0][1]
    assert "attack_settings.meta_every=4" in calls[0][1]
    saved = json.loads((tmp_path / "out.json").read_text())
    assert saved["variants"]["gamma 0"]["evaluation"] == measured(0.6)
    elsewhere = ["--runs", str(tmp_path / "elsewhere")]
    assert CliRunner().invoke(ablations.command, [*arguments, *elsewhere]).exit_code == 0
    assert len(calls) == 2, "another machine keeps what the result has"
    joined = CliRunner().invoke(ablations.command, [*arguments[:-1], "gamma 0.1"])
    assert joined.exit_code == 0, joined.output
    assert list(json.loads((tmp_path / "out.json").read_text())["variants"]) == ["gamma 0", "gamma 0.1"]
    mixed = CliRunner().invoke(ablations.command, [*arguments, "--faces", "99"])
    assert mixed.exit_code == 1
    assert "holds variants with another training_faces; use another --out" in mixed.output
    arguments[arguments.index("--out") + 1] = str(tmp_path / "other.json")
    other = CliRunner().invoke(ablations.command, [*arguments, "--faces", "99"])
    assert other.exit_code == 1
    assert "holds a variant trained otherwise" in other.output
    calls.clear()
    again = CliRunner().invoke(ablations.command, [*arguments, "--people", "7"])
    assert again.exit_code == 0
    assert [module for module, _ in calls] == ["training.evaluation"]
    (tmp_path / "stricter").write_text('{"stricter": true}')
    arguments[arguments.index("--out") + 1] = str(tmp_path / "stricter.json")
    calls.clear()
    judged = CliRunner().invoke(
        ablations.command, [*arguments, "--people", "7", "--thresholds", str(tmp_path / "stricter")]
    )
    assert judged.exit_code == 0, judged.output
    assert [module for module, _ in calls] == ["training.evaluation"], "other thresholds, another evaluation"
    changed = ["--recognizers", str(tmp_path / "stricter"), "--out", str(tmp_path / "changed.json")]
    attacked = CliRunner().invoke(ablations.command, [*arguments, *changed])
    assert attacked.exit_code == 1
    assert "holds a variant trained otherwise" in attacked.output
    refused = CliRunner().invoke(ablations.command, [*arguments, "--only", "gamma 9"])
    assert refused.exit_code == 2
    assert "no variant gamma 9" in refused.output


def test_table_and_plot(tmp_path) -> None:
    result = {
        "training_faces": 6000,
        "base": "run",
        "test_people": 150,
        "variants": {
            "reference": {"evaluation": measured(0.61)},
            "first order": {"evaluation": measured(0.4)},
        },
    }
    (tmp_path / "result.json").write_text(json.dumps(result))
    arguments = ["--result", str(tmp_path / "result.json"), "--out", str(tmp_path / "ablations")]
    shown = CliRunner().invoke(ablation_plot.command, arguments)
    assert shown.exit_code == 0, shown.output
    assert "| reference | 61 / 90 / 50 | 61 / 90 / 50 | 0.070 | 0.800 | 0.800 |" in shown.output
    assert "| first order | 40 / 90 / 50 |" in shown.output
    assert (tmp_path / "ablations.md").read_text() + "\n" == shown.output
    assert Image.open(tmp_path / "ablations.png").width > 1000
