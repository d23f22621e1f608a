"""A plan's sidecar: what is written is read, what is malformed is named, and what does not fit is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.engine_sidecar import BatchProfile, EngineSidecar, read_engine, sidecar_path
from runtime.errors import BackendError, BundleError
from runtime.manifest import sha256_of

from .sidecars import ONNX, sidecar

PLAN = b"a plan"
SIDECAR = sidecar(PLAN)
REBUILD = "rebuild the plan on this machine: python -m export.repository --tensorrt ..."


def check(sidecar: EngineSidecar, plan: bytes = PLAN, **found: Any) -> None:
    """Checks against the very machine that ``SIDECAR`` names, but for ``found``."""
    here = {
        "onnx_sha256": sha256_of(ONNX),
        "flavour": "tensorrt",
        "flavour_version": "10.3.0",
        "architecture": "8.9",
    }
    sidecar.check(plan, **{**here, **found})


@pytest.mark.parametrize(
    "sidecar",
    [
        SIDECAR,
        replace(SIDECAR, cuda_version=None, architectures=None),
        replace(SIDECAR, flavour="tensorrt_rtx", flavour_version="1.7.1.116", hardware_compatible=True),
        replace(SIDECAR, version_compatible=True, batch=BatchProfile(min=4, opt=4, max=4), build_s=0),
    ],
)
def test_survives_json(sidecar: EngineSidecar) -> None:
    assert EngineSidecar.from_json(sidecar.to_json()) == sidecar


def test_json_has_every_field_under_its_name() -> None:
    raw = json.loads(SIDECAR.to_json())
    assert (raw["format"], raw["version"]) == ("erasablemask-engine", 1)
    assert raw["batch"] == {"min": 1, "opt": 8, "max": 32}
    assert raw["architectures"] == ["8.6", "8.9"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("onnx_sha256", "abc", "onnx_sha256 must be 64 hex digits"),
        ("plan_sha256", None, "plan_sha256 must be 64 hex digits"),
        ("flavour", "os", "flavour must be one of tensorrt, tensorrt_rtx, found 'os'"),
        ("flavour", ["tensorrt"], "flavour must be one of"),
        ("flavour_version", "new", "flavour_version must be a version such as 10.3.0"),
        ("flavour_version", "1" * 9999 + ".0", "flavour_version must be a version"),
        ("cuda_version", 13.0, "cuda_version must be a version such as 13.0, or null"),
        ("architectures", "9.0", "architectures must be a list of compute capabilities"),
        ("architectures", [], "architectures must be a list"),
        ("architectures", [9.0], "architectures must be a list"),
        ("hardware_compatible", 1, "hardware_compatible must be true or false"),
        ("version_compatible", "no", "version_compatible must be true or false"),
        ("batch", 8, "batch must be a mapping"),
        ("batch", {"min": 1, "opt": 2}, "batch must be a mapping of min, opt and max, found"),
        ("batch", {"min": 0, "opt": 1, "max": 1}, "batch.min must be a whole number from 1 to 4096, found 0"),
        ("batch", {"min": 1, "opt": 1.5, "max": 2}, "batch.opt must be a whole number"),
        (
            "batch",
            {"min": 1, "opt": 9, "max": 8},
            "1 <= min <= opt <= max <= 4096, found min 1, opt 9, max 8",
        ),
        ("batch", {"min": 1, "opt": 1, "max": 10**30}, "batch.max must be a whole number"),
        ("batch", {"min": 1, "opt": 1, "max": 1, "most": 1}, "batch must be a mapping of min, opt and max"),
        ("precision", "int4", "precision must be one of fp32, fp16, bf16, int8"),
        ("build_s", -1, "build_s must be a number of seconds"),
        ("build_s", float("nan"), "build_s must be a number of seconds"),
        ("colour", "red", "colour"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: Any, message: str) -> None:
    raw = {**json.loads(SIDECAR.to_json()), field: value}
    with pytest.raises(BundleError, match=message) as caught:
        EngineSidecar.from_json(json.dumps(raw))
    assert str(caught.value).endswith(REBUILD)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "field", [key for key in json.loads(SIDECAR.to_json()) if key not in ("format", "version")]
)
def test_a_missing_field_is_named(field: str) -> None:
    raw = json.loads(SIDECAR.to_json())
    del raw[field]
    with pytest.raises(BundleError, match=field):
        EngineSidecar.from_json(json.dumps(raw))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"build_s": ' + "9" * 5000 + "}", "not valid JSON"),
        ("[]", "expected a plan's sidecar in the format erasablemask-engine"),
        ('{"format": "erasablemask-bundle", "version": 1}', "expected a plan's sidecar in the format"),
        ('{"format": "erasablemask-engine"}', "has version None, this program reads 1"),
        ('{"format": "erasablemask-engine", "version": 2}', "has version 2, this program reads 1"),
        (json.dumps({"format": "erasablemask-engine", "version": "x" * 9999}), "this program reads 1"),
        ('{"format": "erasablemask-engine", "version": 1}', "missing, unknown or malformed field: 'batch'"),
    ],
)
def test_what_is_no_sidecar_is_refused(text: str, message: str) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        EngineSidecar.from_json(text)
    assert len(str(caught.value)) < 500


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.sampled_from(list(json.loads(SIDECAR.to_json()))), JSON)
def test_no_value_of_any_field_crashes(field: str, value: Any) -> None:
    """Whatever a field holds, the sidecar is read or refused in words."""
    try:
        sidecar = EngineSidecar.from_json(json.dumps({**json.loads(SIDECAR.to_json()), field: value}))
    except BundleError:
        return
    assert EngineSidecar.from_json(sidecar.to_json()) == sidecar


@pytest.mark.parametrize(
    ("least", "best", "most"), [(0, 1, 1), (2, 1, 3), (1, 4, 3), (-1, -1, -1), (1, 1, 5000)]
)
def test_a_profile_is_in_order(least: int, best: int, most: int) -> None:
    with pytest.raises(ValueError, match=f"found min {least}, opt {best}, max {most}"):
        BatchProfile(min=least, opt=best, max=most)


def test_what_fits_passes() -> None:
    check(SIDECAR)
    check(SIDECAR, architecture="8.6")
    check(SIDECAR, onnx_sha256=None)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"plan": b"a damaged plan"}, f"plan's SHA-256 differs: expected {sha256_of(PLAN)}, found "),
        ({"onnx_sha256": "f" * 64}, f"ONNX file differs: expected {sha256_of(ONNX)}, found {'f' * 64}"),
        (
            {"flavour": "tensorrt_rtx"},
            "library that built the plan differs: expected tensorrt, found tensorrt_rtx",
        ),
        ({"flavour_version": "10.3.1"}, r"needs tensorrt 10\.3\.0; found 10\.3\.1"),
        ({"architecture": "9.0"}, r"needs a GPU of compute capability 8\.6, 8\.9; found 9\.0"),
        ({"architecture": "8.0"}, r"8\.6, 8\.9; found 8\.0"),
    ],
)
def test_what_does_not_fit_is_refused(found: dict[str, Any], message: str) -> None:
    with pytest.raises(BackendError, match=message) as caught:
        check(SIDECAR, **found)
    assert str(caught.value).endswith(REBUILD)


@pytest.mark.parametrize(
    ("version", "fits"),
    [
        ("10.3.0", True),
        ("10.3.1", True),
        ("10.13.0", True),
        ("10.2.9", False),
        ("11.0.0", False),
        ("9.9", False),
    ],
)
def test_a_version_compatible_plan_runs_on_later_versions_of_its_major(version: str, fits: bool) -> None:
    sidecar = replace(SIDECAR, version_compatible=True)
    if fits:
        check(sidecar, flavour_version=version)
        return
    with pytest.raises(BackendError, match=r"10\.3\.0, or a later one of the same major version; found"):
        check(sidecar, flavour_version=version)


@pytest.mark.parametrize(
    ("architecture", "fits"),
    [
        ("8.0", True),
        ("8.6", True),
        ("12.0", True),
        ("12.1", True),
        ("13.0", True),
        ("7.5", False),
        ("9.0", False),
    ],
)
def test_a_hardware_compatible_plan_runs_on_newer_architectures(architecture: str, fits: bool) -> None:
    """12.1 and 13.0 are newer than the newest that was named; 9.0 is neither named nor newer."""
    sidecar = replace(SIDECAR, architectures=("8.0", "8.6", "12.0"), hardware_compatible=True)
    if fits:
        check(sidecar, architecture=architecture)
        return
    with pytest.raises(BackendError, match=rf"8\.0, 8\.6, 12\.0 or newer than 12\.0; found {architecture}"):
        check(sidecar, architecture=architecture)


def test_a_plan_of_unknown_architecture_is_left_to_tensorrt() -> None:
    check(replace(SIDECAR, architectures=None), architecture="5.0")


def test_reads_a_plan_and_its_sidecar(tmp_path: Path) -> None:
    plan = tmp_path / "protect.plan"
    assert sidecar_path(plan).name == "protect.plan.json"
    with pytest.raises(BundleError, match=r"cannot read .*protect\.plan\.json: No such file"):
        read_engine(plan)
    sidecar_path(plan).write_text(SIDECAR.to_json(), encoding="utf-8")
    with pytest.raises(BundleError, match=r"cannot read .*protect\.plan: No such file"):
        read_engine(plan)
    plan.write_bytes(PLAN)
    assert read_engine(plan) == (PLAN, SIDECAR)
    sidecar_path(plan).write_bytes(b"\xff\xfe")
    with pytest.raises(BundleError, match="sidecar is not valid JSON"):
        read_engine(plan)
