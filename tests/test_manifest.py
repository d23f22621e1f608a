"""A manifest round-trips; one that is damaged or hostile is refused by the name of its field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtime.errors import BundleError
from runtime.manifest import Manifest, ModelFile, TensorSpec

SPEC = TensorSpec(name="faces", dtype="uint8", shape=(-1, 64, 64, 3))
MANIFEST = Manifest(
    role="public",
    name="tiny",
    image_size=64,
    crop_template=((0.4, 0.5), (0.6, 0.5), (0.5, 0.65), (0.4, 0.75), (0.6, 0.75)),
    attributes=("Bangs", "Smiling"),
    strength=0.5,
    injection=0,
    max_batch=8,
    precision="fp32",
    opset=18,
    target="nobody",
    terms="tests only",
    models={"protect": ModelFile(path="protect.onnx", sha256="0a" * 32, inputs=(SPEC,), outputs=(SPEC,))},
)
HUGE = 10**400


def parse(raw: Any) -> Manifest:
    return Manifest.from_json(json.dumps(raw))


def test_a_manifest_round_trips() -> None:
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST


def test_a_manifest_from_before_there_were_two_systems_is_the_masks() -> None:
    raw = json.loads(MANIFEST.to_json())
    assert raw.pop("system") == "mask"
    assert parse(raw) == MANIFEST
    assert parse({**raw, "system": "anonymiser"}).system == "anonymiser"


@pytest.mark.parametrize(
    ("field", "values", "expected"),
    [
        ("role", ["both", 1, None, ["public"]], "public or authority"),
        ("system", ["both", 1, None, ["mask"]], "mask or anonymiser"),
        ("image_size", [15, 2049, -64, 64.0, "64", True, None, HUGE], "a whole number from 16 to 2048"),
        ("max_batch", [0, 4097, 1.5, True, "8"], "a whole number from 1 to 4096"),
        ("opset", ["18", 18.0, True, None], "a whole number"),
        ("strength", [-0.1, 1.1, float("nan"), float("inf"), "1", True, None, HUGE], "a number from 0 to 1"),
        ("injection", [-0.1, 1.1, float("nan"), [0.5], False], "a number from 0 to 1"),
        (
            "crop_template",
            [
                [[0.4, 0.5]] * 4,
                [[0.4, 0.5, 0.6]] * 5,
                [[0.4, float("nan")]] * 5,
                [[0.4, HUGE]] * 5,
                [[0.4, "1"]] * 5,
                ["ab"] * 5,
                [1.0] * 10,
                {},
            ],
            "5 points of 2 finite numbers",
        ),
        ("attributes", ["Bangs", [""], [1], ["A", "A"], [["A"]], {"A": 1}], "a list of different names"),
        *((name, [1, None, ["x"]], "text") for name in ("name", "target", "terms")),
        (
            "precision",
            [1, None, ["fp16"], "fp99", ""],
            "one of fp32, fp16, fp16-mixed, bf16-mixed, int8, int8-gpu",
        ),
        ("demo", [0, 1, "false", None], "true or false"),
        ("training", [None, [], "x"], "a mapping"),
        ("models", [None, [], "x"], "a mapping"),
    ],
)
def test_a_wrong_field_is_named(field: str, values: list[Any], expected: str) -> None:
    for value in values:
        with pytest.raises(BundleError, match=rf"field: {field} must be {expected}.*, found "):
            parse({**json.loads(MANIFEST.to_json()), field: value})


@pytest.mark.parametrize(
    ("field", "values", "expected"),
    [
        (
            "path",
            ["", ".", "..", "../a", "/etc/passwd", "a/b", "a/", "./a", "a\\b", "c:a", "a\0b", 1, None],
            "a plain file name",
        ),
        ("sha256", ["", "0a" * 31, "0g" * 32, "0a" * 32 + "\n", "0A" * 32, 1, None], "64 hex digits"),
        ("sealed", [0, "yes", None], "true or false"),
        ("inputs", [None, "ab", [1]], "a list of mappings"),
    ],
)
def test_a_models_wrong_field_is_named(field: str, values: list[Any], expected: str) -> None:
    for value in values:
        raw = json.loads(MANIFEST.to_json())
        raw["models"]["protect"][field] = value
        with pytest.raises(BundleError, match=rf"models\['protect'\]\.{field} must be {expected}.*, found "):
            parse(raw)


@pytest.mark.parametrize(
    ("field", "value"), [("name", 1), ("dtype", None), ("shape", [1.5]), ("shape", [-2]), ("shape", "12")]
)
def test_a_tensors_wrong_field_is_named(field: str, value: Any) -> None:
    raw = json.loads(MANIFEST.to_json())
    raw["models"]["protect"]["inputs"][0][field] = value
    with pytest.raises(BundleError, match=rf"models\['protect'\]\.inputs\.{field} must be "):
        parse(raw)


def test_a_model_that_is_no_mapping_is_named() -> None:
    for model in (None, "protect.onnx", ["protect.onnx"]):
        with pytest.raises(BundleError, match=r"models\['protect'\] must be a mapping"):
            parse({**json.loads(MANIFEST.to_json()), "models": {"protect": model}})


def test_missing_and_unknown_fields_are_refused() -> None:
    raw = json.loads(MANIFEST.to_json())
    for changed in (
        {**raw, "colour": "blue"},
        {name: value for name, value in raw.items() if name != "terms"},
        {**raw, "models": {"protect": {"path": "a", "inputs": [], "outputs": []}}},
        {**raw, "models": {"protect": {"path": "a", "sha256": "0a" * 32}}},
    ):
        with pytest.raises(BundleError, match="missing, unknown or malformed field"):
            parse(changed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("1" * 5000, "not valid JSON"),
        ("[]", r"expected manifest\.json in the format erasablemask-bundle, found other JSON"),
        (b"\xff\xfe{", "not valid JSON"),
        ('{"format": "erasablemask-bundle", "version": "%s"}' % ("x" * 9999), "this program reads 1"),
        ('{"format": "zip"}', r"expected manifest\.json in the format erasablemask-bundle, found other JSON"),
        ('{"format": "erasablemask-bundle", "version": 2}', "has version 2, this program reads 1"),
    ],
)
def test_other_files_are_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        Manifest.from_json(text)
    assert "get the bundle again from where it was published" in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_long_or_coloured_value_is_reported_on_one_short_line() -> None:
    raw = {**json.loads(MANIFEST.to_json()), "role": "\x1b[31m\n" + "x" * 10_000}
    with pytest.raises(BundleError) as caught:
        parse(raw)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()
