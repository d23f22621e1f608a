"""Every committed result conforms to the one schema; what lacks a commit, a count or an interval does not."""

from __future__ import annotations

import ast
import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from benchmarks import common
from benchmarks.schema import KINDS, ResultError, check, read_result, schema_of, write_result
from training.evaluation import share_of

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "results"
# Reports of exports, and results of before there were suspicions.
OTHERS = {"parity", "targets", "without_release"}
RESULTS = sorted(path for path in FOLDER.rglob("*.json") if path.parent.name not in OTHERS)


@pytest.fixture
def efficacy() -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / "efficacy.json").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kinds_schema_is_a_schema(kind: str) -> None:
    Draft202012Validator.check_schema(schema_of(kind))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_every_committed_result_conforms(path: Path) -> None:
    assert read_result(path)["benchmark"] in KINDS


def test_there_are_committed_results() -> None:
    assert len(RESULTS) >= 8


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("environment", "commit"), "at environment: 'commit' is a required property"),
        (("environment", "processor"), "at environment: 'processor' is a required property"),
        (("environment", "versions"), "at environment: 'versions' is a required property"),
        (("bundle", "sha256"), "at bundle: 'sha256' is a required property"),
        (("bundle", "precision"), "at bundle: 'precision' is a required property"),
        (("pictures",), "at the top: 'pictures' is a required property"),
        (("lost", "protected"), "at lost: 'protected' is a required property"),
        (("seed",), "at the top: 'seed' is a required property"),
        (("recognizers", "sface", "esr_clean"), "at recognizers/sface: 'esr_clean' is a required property"),
        (("recognizers", "sface", "asr", "low"), "at recognizers/sface/asr: 'low' is a required property"),
        (("recognizers", "sface", "asr", "count"), "at recognizers/sface/asr: 'count' is a required prop"),
    ],
    ids=lambda value: "/".join(value) if isinstance(value, tuple) else "",
)
def test_what_a_result_must_say(efficacy: dict[str, Any], place: tuple[str, ...], message: str) -> None:
    *path, last = place
    part = efficacy
    for name in path:
        part = part[name]
    del part[last]
    with pytest.raises(ResultError, match=f"it: {message}.*; measure again"):
        check(efficacy, "it")


@pytest.mark.parametrize("wrong", ["unknown", "", "abc123", "0" * 39])
def test_a_commit_is_a_whole_hash(efficacy: dict[str, Any], wrong: str) -> None:
    efficacy["environment"]["commit"] = wrong
    with pytest.raises(ResultError, match="at environment/commit"):
        check(efficacy, "it")


def test_a_rate_stands_nowhere_without_its_interval(efficacy: dict[str, Any]) -> None:
    """Also where the kind's own form says nothing of it: in fields that joined later."""
    grown = copy.deepcopy(efficacy) | {"more": [{"deep": {"rank_1": share_of(np.array([True]))}}]}
    grown["more"][0]["deep"]["rank_1"] = {"value": 1.0, "low": 0.2, "high": 1.0, "count": 1}
    check(grown, "it")
    grown["more"][0]["deep"]["rank_1"] = 1.0
    with pytest.raises(ResultError, match=r"at more/0/deep/rank_1: 1\.0 is not valid"):
        check(grown, "it")
    efficacy["recognizers"]["sface"]["asr"]["value"] = 1.01
    with pytest.raises(ResultError, match="at recognizers/sface/asr"):
        check(efficacy, "it")


def test_an_estimate_without_samples_is_null_throughout(efficacy: dict[str, Any]) -> None:
    nothing = dict.fromkeys(("value", "low", "high")) | {"count": 0}
    efficacy["recognizers"]["sface"]["dodging"] = nothing
    check(efficacy, "it")


def test_unknown_kinds_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"x: expected a result of calibrate, .*, found one of bench"):
        check({"benchmark": "bench"}, "x")
    with pytest.raises(ResultError, match="found one of None"):
        check([], "x")
    (tmp_path / "text.json").write_text("no")
    with pytest.raises(ResultError, match=r"text\.json: expected JSON, found something else"):
        read_result(tmp_path / "text.json")


def test_what_is_written_is_checked_and_a_long_run_is_not_lost(
    efficacy: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "new" / "efficacy.json"
    efficacy["recognizers"]["sface"]["asr"] = share_of(np.array([True, False]))
    write_result(efficacy, path)
    assert read_result(path)["recognizers"]["sface"]["asr"]["count"] == 2
    path.unlink()
    del efficacy["environment"]["commit"]
    with pytest.raises(ResultError, match=r"what was measured is in .*efficacy\.invalid\.json"):
        write_result(efficacy, path)
    assert not path.exists()
    kept = json.loads(path.with_suffix(".invalid.json").read_text())
    assert kept["recognizers"]["sface"]["asr"]["value"] == 0.5


def test_the_environment_conforms(efficacy: dict[str, Any]) -> None:
    """In a checkout; tags must not take the commit's place."""
    check(efficacy | {"environment": common.environment()}, "it")


def test_every_benchmark_writes_through_the_schema() -> None:
    """Whatever takes ``--out`` writes a result, but for these: an embedding, a drawing, a report."""
    others = {"target.py", "ablation_plot.py", "report/__main__.py"}
    for path in (ROOT / "benchmarks").rglob("*.py"):
        name = path.name if path.name != "__main__.py" else f"{path.parent.name}/{path.name}"
        if '"--out"' not in path.read_text() or name in others:
            continue
        imported = {
            alias.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert "write_result" in imported, f"{path}: use benchmarks.schema.write_result"
