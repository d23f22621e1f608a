"""Three planted cheats, each caught, and the honest bundle, which is not."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks.efficacy import owners, pictures, robustness
from benchmarks.efficacy.operations import OPERATIONS
from benchmarks.efficacy.protocol import Laboratory
from benchmarks.efficacy.published import jpeg
from benchmarks.efficacy.suspicion import check_held_out, restoration_figures, suspicions_of
from export import annotate
from export.errors import ExportError
from runtime.detection import FaceDetector
from runtime.manifest import open_bundle
from tests.conftest import MakeBundle
from tests.strangers import Colours, card, recognizer_file
from tests.tiny_training import tiny_recognizer, tiny_run
from training.checkpoint import CheckpointError
from training.evaluation import OnnxRecognizer, Thresholds
from training.fingerprint import FIELD, Fingerprint, attacked_runs, onnx_fingerprint, weights_sha256

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


class Stage:
    """A publisher that darkens and undoes it, or cheats."""

    quality = 95

    def __init__(self, detector: FaceDetector, training: dict[str, Any]) -> None:
        self.about: dict[str, Any] = {"name": "stage", "precision": "fp32", "sha256": {"protect": "a" * 64}}
        self.detector, self.manifest = detector, SimpleNamespace(training=training)
        self.target: np.ndarray | None = None  # returned as the protected picture
        self.mean_face: np.ndarray | None = None  # returned as every restored picture

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None: ...

    def protect(self, clean: np.ndarray) -> bytes:
        shown = clean // 8 * 7 if self.target is None else self.target
        return jpeg(np.asarray(Image.fromarray(shown).resize(clean.shape[1::-1])), 95)

    def edit(self, clean: np.ndarray) -> np.ndarray:
        return clean

    def erase(self, published: np.ndarray) -> bytes | None:
        restored = np.clip(published.astype(int) * 8 // 7, 0, 255).astype(np.uint8)
        return jpeg(restored if self.mean_face is None else self.mean_face, 95)


@pytest.fixture
def people(tmp_path: Path, astronaut: np.ndarray, hopper: np.ndarray) -> list[list[Path]]:
    """Two people with two photos each, the same one twice."""
    found = []
    for name, pixels in (("a", astronaut), ("h", hopper)):
        Image.fromarray(pixels).resize((256, 256)).save(tmp_path / f"{name}.png")
        found.append([tmp_path / f"{name}.png"] * 2)
    return found


@pytest.fixture
def nobody(hopper: np.ndarray) -> np.ndarray:
    """A face like no one's: mirrored, in other colours."""
    return np.array(Image.fromarray(hopper[:, ::-1, ::-1]).resize((256, 256)))


HONEST = {"surrogates": ["open"], FIELD: {"open": {"file": "cc", "weights": "dd"}}}


@pytest.fixture
def laboratory(detector: FaceDetector, people: list[list[Path]]) -> Laboratory:
    bare = Laboratory.__new__(Laboratory)
    bare.recognizers, bare.roles = [Colours()], {"colours": "black-box"}
    limits = {"0.1": 0.5, "0.01": 0.9, "0.001": 0.95}
    calibration = {"pictures": 2, "pairs": 1, "seed": 0}
    bare.thresholds = Thresholds({"colours": {"sha256": "aa", "threshold": limits}}, calibration)
    bare.publisher = Stage(detector, HONEST)
    bare._target_picture = people[1][0]
    return bare


def results(laboratory: Laboratory, people: list[list[Path]]) -> dict[str, dict[str, Any]]:
    first = [photos[0] for photos in people]
    return {
        "pictures": pictures.measure(first, laboratory, perceptual={}),
        "owners": owners.measure(people, laboratory),
        "robustness": robustness.measure(first, laboratory, seed=0),
    }


@pytest.fixture(autouse=True)
def _one_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robustness, "OPERATIONS", {"none": OPERATIONS["none"]})


def whats(result: dict[str, Any]) -> list[str]:
    return [suspicion["what"] for suspicion in result["suspicions"]]


def test_an_honest_bundle_is_not_suspected(laboratory: Laboratory, people: list[list[Path]]) -> None:
    for result in results(laboratory, people).values():
        assert result["suspicions"] == []
        assert result["plausibility"]["protected_face_ssim"] > 0.9
        assert result["plausibility"]["owner_accepted"] == 1.0
        assert result["plausibility"]["restored_confused"] == 0.0


def test_an_attack_that_returns_the_targets_photo_is_found_everywhere(
    laboratory: Laboratory, people: list[list[Path]], hopper: np.ndarray
) -> None:
    """The target's own picture is the second person's: half of the faces are no pictures of their owners."""
    laboratory.publisher.target = np.asarray(Image.fromarray(hopper).resize((256, 256)))
    for result in results(laboratory, people).values():
        assert "protected_faces_changed" in whats(result)
        assert result["plausibility"]["protected_faces_changed"] == 0.5
    told = results(laboratory, people)["pictures"]["suspicions"]
    assert any("SSIM with the clean face is below 0.6: expected at most 0.05" in s["found"] for s in told)


def test_a_restorer_that_returns_one_face_is_found_everywhere(
    laboratory: Laboratory, people: list[list[Path]], nobody: np.ndarray
) -> None:
    laboratory.publisher.mean_face = nobody
    for result in results(laboratory, people).values():
        assert whats(result) == ["restored_confused", "owner_accepted"]
        assert result["plausibility"]["restored_confused"] == 1.0


def test_one_picture_is_judged_by_its_owner_alone() -> None:
    one, nobody = np.array([[1.0, 0.0]]), np.array([[np.nan, np.nan]])
    figures = restoration_figures({"r": one}, {"r": one}, {"r": 0.5})
    assert np.isnan(figures["restored_confused"])
    assert suspicions_of(figures) == []
    lost = restoration_figures({"r": one}, {"r": nobody}, {"r": 0.5})
    assert [s.what for s in suspicions_of(lost)] == ["owner_accepted"]


def test_pictures_of_one_person_may_stay_alike() -> None:
    """Two of A and one of B: A's pair tells nothing, and a restorer that makes all three one is found."""
    clean = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    back = restoration_figures({"r": clean}, {"r": clean}, {"r": 0.5})
    assert back["restored_confused"] == 0.0
    one = restoration_figures({"r": clean}, {"r": clean[[0, 0, 0]]}, {"r": 0.5})
    assert one["restored_confused"] == 1.0


@pytest.mark.parametrize("name", ["pictures", "owners", "robustness"])
@pytest.mark.parametrize("honest", [True, False])
def test_a_suspicious_result_is_written_and_then_the_command_fails(
    laboratory: Laboratory,
    people: list[list[Path]],
    nobody: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    honest: bool,
) -> None:
    laboratory.publisher.mean_face = None if honest else nobody
    module = {"pictures": pictures, "owners": owners, "robustness": robustness}[name]
    monkeypatch.setattr(module, "Laboratory", lambda **_: laboratory)
    if name == "owners":
        monkeypatch.setattr(module, "people_of_celeba", lambda root: people)
    else:
        chosen = ([photos[0] for photos in people], "test")
        monkeypatch.setattr(module, "chosen_pictures", lambda *_: chosen)
    out, here = tmp_path / "out.json", str(tmp_path)
    source = "--celeba" if name == "owners" else "--images"
    needed = ["--recognizers", here, "--target", here, "--thresholds", here, "--out", str(out)]
    done = CliRunner().invoke(module.command, [source, here, *needed])
    written = json.loads(out.read_text())
    assert (done.exit_code, written["suspicions"] == []) == ((0, True) if honest else (1, False))
    assert ("SUSPICIOUS owner_accepted: share of owners accepted" in done.stderr) is not honest


def test_committed_results_are_not_suspected() -> None:
    """Those of before there were figures are judged by what they have."""
    whole = json.loads((RESULTS / "efficacy.json").read_text())
    changed = whole["quality"]["protected against clean"]
    accepted = [row["owner_accepted_restored"]["value"] for row in whole["recognizers"].values()]
    figures = {
        "protected_ssim": changed["ssim"]["value"],
        "protected_lpips": changed["lpips_alex"]["value"],
        "owner_accepted": float(np.mean(accepted)),
    }
    assert suspicions_of(figures) == []
    none = json.loads((RESULTS / "robustness.json").read_text())["operations"]["none"]["recognizers"]
    back = [row["owner_accepted_restored"]["value"] for row in none.values()]
    assert suspicions_of({"owner_accepted": float(np.mean(back))}) == []
    for path in RESULTS.rglob("*.json"):
        result = json.loads(path.read_text())
        if "plausibility" in result:
            assert result["suspicions"] == []
            assert suspicions_of(result["plausibility"]) == []


def renamed(source: Path, path: Path) -> Path:
    """The same network in a file of another hash: its tensors in another order, with other names."""
    model = onnx.load(source)
    names = {tensor.name: f"{tensor.name}_again" for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    tensors = list(model.graph.initializer)[::-1]
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("again", [False, True])
def test_a_surrogate_called_black_box_is_refused_before_anything_is_measured(
    laboratory: Laboratory, tmp_path: Path, again: bool
) -> None:
    file = recognizer_file(tmp_path / "open.onnx")
    prints = dataclasses.asdict(onnx_fingerprint(file))
    laboratory.publisher.manifest.training = {"surrogates": ["open"], FIELD: {"open": prints}}
    listed = renamed(file, tmp_path / "again.onnx") if again else file
    if again:
        assert onnx_fingerprint(listed).file != prints["file"]
    laboratory.recognizers = [OnnxRecognizer(card(listed, "held_out"))]
    laboratory.publisher.protect = None  # whoever measured would fail otherwise
    with pytest.raises(ValueError, match=r"'held_out' is called black-box, .* this very network as 'open'"):
        pictures.measure([tmp_path / "none.png"], laboratory, perceptual={})


def test_a_white_box_recogniser_may_be_a_surrogate(tmp_path: Path) -> None:
    file = recognizer_file(tmp_path / "open.onnx")
    training = {"surrogates": ["open"], FIELD: {"open": dataclasses.asdict(onnx_fingerprint(file))}}
    white = OnnxRecognizer(dataclasses.replace(card(file), role="white-box"))
    assert check_held_out([white], training) == []


@pytest.mark.parametrize("training", [{}, {"surrogates": ["open"]}, {"surrogates": ["open"], FIELD: {}}])
def test_surrogates_that_were_not_recorded_are_a_suspicion(training: dict[str, Any]) -> None:
    (found,) = check_held_out([Colours()], training)
    assert found.what == "held_out"
    assert "not recorded which files the surrogates were (" in found.found
    assert "python -m export.annotate --surrogate NAME=FILE" in found.found


def test_a_malformed_record_is_said_to_be() -> None:
    with pytest.raises(ValueError, match="record of its surrogates is malformed"):
        check_held_out([Colours()], {"surrogates": ["open"], FIELD: {"open": {"sha": "aa"}}})


def test_forebears_count_unless_only_their_first_stage_was_taken() -> None:
    """A run from stage 2 on takes nothing that saw surrogates, unless it keeps what was trained."""
    before = {"surrogates": ["old"], "from_stage": "attack", "keep_trained": False}
    runs = {"surrogates": ["new"], "continues": before}
    assert [run["surrogates"] for run in attacked_runs(runs)] == [["new"]]
    for change in ({"keep_trained": True}, {"from_stage": "erasure"}):
        kept = {**runs, "continues": {**before, **change}}
        assert [run["surrogates"] for run in attacked_runs(kept)] == [["new"], ["old"]]
        (found,) = check_held_out([Colours()], {**kept, FIELD: {"new": {"file": "x", "weights": "y"}}})
        assert "(old)" in found.found


def test_a_fingerprint_outlives_names_and_order_but_no_change() -> None:
    first, second = np.ones((2, 3), np.float32), np.arange(6, dtype=np.float32).reshape(3, 2)
    known = weights_sha256([first, second, np.ones(3, np.float32)])
    assert weights_sha256([second.astype(np.float64), first]) == known
    assert weights_sha256([first, second + 1]) != known
    assert weights_sha256([np.ones(3, np.float32)]) is None
    assert not Fingerprint(None, None).same(Fingerprint(None, None))


def test_a_file_that_is_no_network_has_no_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_text("hello")
    with pytest.raises(ValueError, match=r"x\.onnx is not an ONNX file"):
        onnx_fingerprint(tmp_path / "x.onnx")


def test_a_recogniser_in_torch_and_in_onnx_runtime_have_one_fingerprint(tmp_path: Path) -> None:
    from training.surrogates import load_recognizer

    made = card(recognizer_file(tmp_path / "r.onnx"))
    assert load_recognizer(made).fingerprint() == OnnxRecognizer(made).fingerprint()
    assert tiny_recognizer(0).fingerprint().weights != tiny_recognizer(1).fingerprint().weights


def test_a_resumed_run_refuses_another_file_of_the_same_surrogate(tmp_path: Path) -> None:
    def given(file: str) -> dict[str, Any]:
        return {"target": "nobody", FIELD: {"open": {"file": file, "weights": "dd"}}}

    tiny_run(tmp_path / "run", given=given("aa")).save()
    assert tiny_run(tmp_path / "run", given=given("aa")).about[FIELD]["open"]["file"] == "aa"
    with pytest.raises(CheckpointError, match=r"given something else; .*open\.file was 'aa', is 'bb'"):
        tiny_run(tmp_path / "run", given=given("bb"))


def test_a_run_of_before_fingerprints_goes_on_without_them(tmp_path: Path) -> None:
    tiny_run(tmp_path / "run", given={"target": "nobody"}).save()
    resumed = tiny_run(tmp_path / "run", given={"target": "nobody", FIELD: {"open": {}}})
    assert FIELD not in resumed.about


def annotated(bundle: Path, *surrogates: str) -> Any:
    options = [part for surrogate in surrogates for part in ("--surrogate", surrogate)]
    return CliRunner().invoke(annotate.main, ["--bundle", str(bundle), *options])


def test_surrogates_files_are_recorded_afterwards(make_bundle: MakeBundle, tmp_path: Path) -> None:
    """In every record that counts; nothing else changes, and a second time changes nothing."""
    file = recognizer_file(tmp_path / "open.onnx")
    before = {"surrogates": ["open"], "from_stage": "erasure", "keep_trained": False}
    training = {"surrogates": ["open"], "seed": 3, "continues": before}
    folder = make_bundle(training=copy.deepcopy(training), measured={"asr": 1}).folder
    for _ in range(2):
        assert annotated(folder, f"open={file}").exit_code == 0
        manifest = open_bundle(folder).manifest
        prints = {"open": dataclasses.asdict(onnx_fingerprint(file))}
        assert manifest.training == {**training, FIELD: prints, "continues": {**before, FIELD: prints}}
        assert manifest.measured == {"asr": 1}
    assert check_held_out([Colours()], manifest.training) == []
    other = recognizer_file(tmp_path / "other.onnx", gemm=True)
    refused = annotated(folder, f"open={other}")
    assert refused.exit_code == 1
    assert "trained against another file of 'open'" in refused.output
    assert open_bundle(folder).manifest == manifest


def test_recording_refuses_what_it_cannot_know(make_bundle: MakeBundle, tmp_path: Path) -> None:
    folder = make_bundle(training={"surrogates": ["open"]}).folder
    file = recognizer_file(tmp_path / "open.onnx")
    for surrogate, message in {
        f"shut={file}": "not trained against 'shut'; its surrogates are: open",
        "open": "expected NAME=FILE, found 'open'",
        f"open={tmp_path / 'none.onnx'}": "cannot read the surrogate 'open'",
    }.items():
        done = annotated(folder, surrogate)
        assert done.exit_code == 1
        assert message in done.output
    with pytest.raises(ExportError, match="its surrogates are: unknown"):
        annotate.with_fingerprints({}, {"open": {}})
    nothing = CliRunner().invoke(annotate.main, ["--bundle", str(folder)])
    assert nothing.exit_code == 2
    assert "expected --measured, --surrogate or both" in nothing.output
