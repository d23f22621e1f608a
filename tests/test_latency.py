"""The latency benchmark: what it counts, how it compares, and that every program is the same network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks.latency import layers, networks
from benchmarks.latency.networks import Subject, compare, flops_of, ratios
from benchmarks.latency.programs import REFERENCE, Program, programs_of
from export.faces import inputs_of, synthetic_faces
from export.run import load_run

from .tiny_anonymiser import STEPS, anonymiser_run
from .tiny_run import NAMES, SIZE, save_run
from .tiny_training import Silent


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "SETTLE_S", 0.0)


def test_every_program_is_the_same_network(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes a minute a program and is PyTorch's affair: here it gives the module back."""
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    for part in load_run(run_folder).parts:
        if part.name == "attributes":
            continue
        inputs = inputs_of(part.name, synthetic_faces(12, SIZE), len(NAMES))
        programs, missing = programs_of(part, inputs, inputs, threads=1, device=torch.device("cpu"))
        names = [program.name for program in programs]
        assert names[0] == REFERENCE
        assert len(set(names)) == len(names)
        assert {"ONNX Runtime int8, 2x2", "PyTorch bf16, compiled"} <= set(names)
        assert "OpenVINO int8 and bf16, 2x2, moved in int8, a stream a thread" in missing.keys() | set(names)
        assert missing.keys().isdisjoint(names)
        assert {"ONNX Runtime CUDA fp32", "OpenVINO int8 and bf16, 2x2"} <= missing.keys() | set(names)
        expected = programs[0].run(inputs).astype(int)
        assert expected.std() > 1
        for program in programs:
            difference = np.abs(program.run(inputs) - expected)
            # Random weights: int8's 2 % is some levels; a wrong form would be off by tens everywhere.
            allowed = 3.0 if "int8" in program.name else 1.0
            assert difference.mean() <= allowed, program.name


def test_what_must_be_computed_in_float32_is_timed_in_nothing_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    anonymiser_run(tmp_path / "run").train(Silent())
    subject = Subject.load(tmp_path / "run")
    (part,) = subject.parts
    assert (part.name, subject.image_size, subject.steps) == ("anonymise", SIZE, STEPS)
    inputs = subject.inputs(part, synthetic_faces(3, SIZE))
    assert list(inputs) == ["faces", "grain", "shade", "strength"]
    programs, _ = programs_of(part, inputs, inputs, threads=1, device=torch.device("cpu"))
    names = [program.name for program in programs]
    assert names[0] == REFERENCE
    assert "PyTorch fp32, compiled" in names
    assert not any(less in name for name in names for less in ("bf16", "fp16", "int8"))
    expected = programs[0].run(inputs).astype(int)
    for program in programs:
        assert np.abs(program.run(inputs) - expected).max() <= 1, program.name
    assert flops_of(part, inputs) > 0


def test_multiplications_are_counted_by_hand(run_folder: Path) -> None:
    """The tiny restorer, 32 px, width 4, depth 3: 2 x outputs x inputs of each weight's taps."""
    (part,) = (part for part in load_run(run_folder).parts if part.name == "restore")
    encoder = [(16, 4, 3), (8, 8, 4), (4, 16, 8)]  # side of the output, channels out, channels in
    decoder = [(4, 16, 16), (8, 8, 16 + 8), (16, 3, 8)]  # side of the input, channels out, channels in
    expected = sum(2 * side**2 * out * into * 16 for side, out, into in encoder + decoder)
    inputs = inputs_of(part.name, synthetic_faces(2, SIZE), len(NAMES))
    assert flops_of(part, inputs) == expected


def test_times_are_those_of_a_face_and_drift_is_from_the_first() -> None:
    inputs = {"faces": np.arange(8, dtype=np.uint8).reshape(8, 1)}
    rows = compare(
        [
            Program(name=REFERENCE, run=lambda given: given["faces"]),
            Program(name="other", run=lambda given: given["faces"] + np.uint8(2)),
        ],
        inputs,
        (1, 4),
        rounds=3,
        calls=2,
    )
    assert [(row["program"], row["batch"], row["calls"]) for row in rows] == [
        (REFERENCE, 1, 6),
        ("other", 1, 6),
        (REFERENCE, 4, 6),
        ("other", 4, 6),
    ]
    assert [row["max_levels"] for row in rows] == [0, 2, 0, 2]
    for row in rows:
        low, high = row["quartiles_ms"]
        assert 0 < row["least_ms"] <= low <= row["ms_per_face"] <= high


def test_ratios_are_to_the_same_batch() -> None:
    rows = [
        {"program": REFERENCE, "batch": 1, "ms_per_face": 9.0},
        {"program": REFERENCE, "batch": 8, "ms_per_face": 6.0},
        {"program": "fast", "batch": 8, "ms_per_face": 2.0},
    ]
    assert ratios(rows[2], rows, 1.0) == {"speedup": 3.0, "times_floor": 2.0}


def test_the_command_writes_a_result(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    monkeypatch.setattr(networks, "CALIBRATION_FACES", 8)
    np.save(tmp_path / "crops.npy", synthetic_faces(10, SIZE))
    options = ("--run", run_folder, "--faces", tmp_path / "crops.npy", "--out", tmp_path / "out.json")
    options += ("--batch", 2, "--rounds", 3, "--calls", 1, "--threads", 1)
    result = CliRunner().invoke(networks.command, [str(option) for option in options])
    assert result.exit_code == 0, result.output
    measured = json.loads((tmp_path / "out.json").read_text())
    assert measured["networks"].keys() == {"protect", "restore"}
    for network in measured["networks"].values():
        (reference,) = (row for row in network["programs"] if row["program"] == REFERENCE)
        assert (reference["speedup"], reference["max_levels"], reference["calls"]) == (1, 0, 3)
        floor_ms = 1e3 * network["flops_per_face"] / measured["matrix_rate_flops"]["bf16"]
        assert network["floor_ms"] == pytest.approx(floor_ms, rel=1e-3, abs=1e-5)


def test_only_some_programs_are_made(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    (part,) = (part for part in load_run(run_folder).parts if part.name == "restore")
    inputs = inputs_of(part.name, synthetic_faces(12, SIZE), len(NAMES))
    programs, missing = programs_of(
        part, inputs, inputs, threads=1, device=torch.device("cpu"), only=("int8, 2x2", "PyTorch fp32")
    )
    names = [program.name for program in programs]
    assert names == [REFERENCE, "ONNX Runtime int8, 2x2", "PyTorch fp32", "PyTorch fp32, compiled"]
    assert missing == {}


def test_layers_are_of_three_kinds() -> None:
    """2 GFLOP in half a millisecond of convolutions: 4 TFLOP/s."""
    found = layers.shares(
        {"Convolution": 0.5, "DepthToSpace": 0.25, "Slice": 0.25, "Subgraph": 0.125}, 2 * 10**9
    )
    assert found["ms_per_face"] == {"convolutions": 0.5, "moves": 0.5, "single values": 0.125}
    assert found["convolution_flops"] == pytest.approx(4e12)


def test_the_layers_command_writes_a_result(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(layers, "CALIBRATION_FACES", 8)
    np.save(tmp_path / "crops.npy", synthetic_faces(10, SIZE))
    options = ("--run", run_folder, "--faces", tmp_path / "crops.npy", "--out", tmp_path / "out.json")
    options += ("--batch", 2, "--calls", 2, "--threads", 1)
    result = CliRunner().invoke(layers.command, [str(option) for option in options])
    assert result.exit_code == 0, result.output
    for network in json.loads((tmp_path / "out.json").read_text())["networks"].values():
        assert network["programs"].keys() == {"2x2", "2x2, moved in int8"}
        for program in network["programs"].values():
            assert min(program["ms_per_face"].values()) > 0
    assert "convolutions at" in result.output
