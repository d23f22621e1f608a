"""The comparison with other people's methods: its rows, what is kept, and a cheat beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from benchmarks.efficacy import peer_rows, peers
from benchmarks.efficacy.attacks.base import Attack, Clean
from benchmarks.efficacy.attacks.registry import PEERS, Means, Peer
from benchmarks.efficacy.attacks.surrogates import load_surrogates
from benchmarks.efficacy.peer_table import cells_of, markdown
from runtime.manifest import sha256_of

ROOT = Path(__file__).parents[1]
PORTRAIT = ROOT / "examples" / "portrait.jpg"
TARGET = ROOT / "tests" / "pictures" / "hopper.jpg"
CROP_PX = 128
FGSM = "FGSM 4/255"


def recogniser_bytes(seed: int) -> bytes:
    """Random projections of a picture of 28 pixels: a recogniser that sees detail and has gradients."""
    rng = np.random.default_rng(seed)
    weights = {
        "kernel": rng.normal(0, 0.3, (4, 3, 5, 5)).astype(np.float32),
        "matrix": rng.normal(0, 0.1, (4 * 6 * 6, 8)).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["face", "kernel"], ["h"], strides=[4, 4]),
            helper.make_node("Tanh", ["h"], ["a"]),
            helper.make_node("Flatten", ["a"], ["f"]),
            helper.make_node("MatMul", ["f", "matrix"], ["embedding"]),
        ],
        "recogniser",
        [helper.make_tensor_value_info("face", TensorProto.FLOAT, ["n", 3, 28, 28])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    ).SerializeToString()


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """A white-box and a black-box recogniser with thresholds, one picture, the shipped bundle."""
    cards, thresholds = {}, {}
    for seed, (name, role) in enumerate((("open", "white-box"), ("hidden", "black-box"))):
        (tmp_path / f"{name}.onnx").write_bytes(data := recogniser_bytes(seed))
        cards[name] = {"role": role, "size": [28, 28], "box": [0, 0, 112, 112]}
        thresholds[name] = {"sha256": sha256_of(data), "threshold": {"0.1": 0.1, "0.01": 0.2}}
    (tmp_path / "cards.json").write_text(json.dumps({"models": cards}))
    calibrated = {"pictures": 2, "pairs": 1, "seed": 0, "recognizers": thresholds}
    (tmp_path / "thresholds.json").write_text(json.dumps(calibrated))
    images = tmp_path / "images"
    images.mkdir()
    (images / PORTRAIT.name).write_bytes(PORTRAIT.read_bytes())
    return [
        *("--images", str(images), "--count", "1", "--recognizers", str(tmp_path / "cards.json")),
        *("--target", str(TARGET), "--thresholds", str(tmp_path / "thresholds.json"), "--threads", "1"),
        *("--peers-folder", str(tmp_path / "kept"), "--out", str(tmp_path / "peers.json")),
    ]


def run(options: list[str], *more: str, suspicious: bool = False) -> dict[str, Any]:
    done = CliRunner().invoke(peers.command, [*options, *more], catch_exceptions=False)
    assert done.exit_code == int(suspicious), done.output
    return json.loads(Path(options[options.index("--out") + 1]).read_text())


def test_rows_say_what_was_measured_and_what_could_not_be(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = [part for name in ("clean", FGSM, "SemanticAdv", "ErasableMask") for part in ("--only", name)]
    document = tmp_path / "peers.md"
    result = run(options, *only, "--markdown", str(document))
    rows = result["peers"]
    assert list(rows) == ["clean", FGSM, "SemanticAdv", "ErasableMask"]
    assert (result["benchmark"], result["suspicions"]) == ("peers", [])
    assert (result["pictures"], result["seed"], result["surrogates"]) == (1, 0, ["open"])

    fgsm = rows[FGSM]
    assert fgsm["recognizers"]["hidden"]["role"] == "black-box"
    assert fgsm["recognizers"]["hidden"]["asr"]["count"] == 1
    assert fgsm["recognizers"]["hidden"]["esr"] is None
    assert fgsm["recognizers"]["hidden"]["cosine_to_owner"]["restored"] is None
    assert "nobody can erase it" in fgsm["not_erasable"]
    assert fgsm["network"]["max_change_levels"] == 4
    assert fgsm["settings"] == {"method": "FGSM", "levels": 4, "steps": 1, "step_levels": 4}
    towards = {
        name: rows[name]["recognizers"]["open"]["cosine_to_target"]["protected"] for name in (FGSM, "clean")
    }
    assert towards[FGSM]["value"] > towards["clean"]["value"]

    assert rows["clean"]["network"]["max_change_levels"] == 0
    assert rows["clean"]["quality"]["ssim"]["value"] > fgsm["quality"]["ssim"]["value"] > 0.8
    assert rows["ErasableMask"]["recognizers"]["hidden"]["esr"]["count"] == 1
    assert rows["ErasableMask"]["network"]["faces"] == 1
    assert "not_erasable" not in rows["ErasableMask"]
    assert set(rows["SemanticAdv"]) == {"paper", "differs", "reason"}
    assert "--run" in rows["SemanticAdv"]["reason"]

    text = document.read_text()
    assert "SemanticAdv: needs the stage-1 networks" in text
    assert f"| {FGSM} |" in text
    assert f"- **{FGSM}.** Goodfellow" in text

    # What is kept is not measured again; another seed is another question.
    def refuse(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(peer_rows.Comparison, "measure", refuse)
    assert run(options, *only)["peers"] == rows
    with pytest.raises(AssertionError, match="measured again"):
        run(options, "--only", FGSM, "--seed", "1")


def test_an_unknown_peer_is_refused(options: list[str]) -> None:
    done = CliRunner().invoke(peers.command, [*options, "--only", "Nobody"])
    assert done.exit_code == 1
    assert "no peer Nobody; there are: clean, FGSM 4/255," in done.output


class ReturnsTheTarget(Attack):
    """A cheat: whoever comes, the target's photo leaves."""

    def __call__(self, crops: np.ndarray, *, seed: int) -> np.ndarray:
        return np.repeat(self.photo, len(crops), axis=0)

    def perturb(self, faces: Any) -> Any:
        return faces


def test_a_cheat_is_suspicious_by_its_picture_quality_and_fails_the_command(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row holds what tells it: SSIM to the clean picture and, plainer, to the clean crop."""

    def cheat(means: Means) -> Attack:
        photo = (means.surrogates.target * 255).round().byte().permute(0, 2, 3, 1).numpy()
        monkeypatch.setattr(ReturnsTheTarget, "photo", photo, raising=False)
        return ReturnsTheTarget()

    honest = next(peer for peer in PEERS if peer.name == FGSM)
    planted = Peer(name="cheat", paper="nobody's", differs="It cheats.", make=cheat)
    monkeypatch.setattr(peers, "PEERS", (honest, planted))
    result = run(options, suspicious=True)
    (doubt,) = result["suspicions"]
    assert doubt["what"] == "protected_faces_changed"
    assert doubt["found"].startswith("cheat, share of protected faces whose SSIM")
    rows = result["peers"]
    cosine = rows["cheat"]["recognizers"]["hidden"]["cosine_to_target"]
    assert cosine["protected"]["value"] > cosine["clean"]["value"]
    assert rows["cheat"]["quality"]["ssim"]["value"] < rows[FGSM]["quality"]["ssim"]["value"] - 0.02
    assert {doubt["what"] for doubt in rows["cheat"]["suspicions"]} == {"protected_faces_changed"}
    assert rows[FGSM]["suspicions"] == []
    assert rows["cheat"]["network"]["ssim"]["value"] < 0.6 < 0.9 < rows[FGSM]["network"]["ssim"]["value"]


def test_cells_of_methods_that_cannot_be_erased_or_built() -> None:
    """ASR 50 % (10-90), owner lost 100 %, nothing to erase; and a peer with its reason alone."""
    share = {"value": 0.5, "low": 0.1, "high": 0.9, "count": 2}
    row = {
        "paper": "P",
        "differs": "D",
        "lost": 0,
        "quality": {"ssim": {"value": 0.9}},
        "network": {"seconds_a_face": 1.25, "ssim": {"value": 0.8}},
        "recognizers": {"r": {"role": "black-box", "asr": share, "dodging": {"value": 1.0}, "esr": None}},
    }
    missing = {"paper": "P", "differs": "D", "reason": "no weights"}
    result = {"pictures": 2, "jpeg_quality": 95, "peers": {"A": row, "B": missing}}
    columns, rows = cells_of(result)
    assert columns[1:5] == ["ASR r (black-box)", "ASR, black-box", "owner lost, black-box", "ESR, black-box"]
    assert rows[0] == ["A", "50 (10-90)", "50", "100", "-", "0.900", "0.800", "0", "1.25"]
    assert rows[1] == ["B: no weights", *[""] * 8]
    assert markdown(result).splitlines()[1] == "|---" + "|---:" * 8 + "|"


def test_the_target_is_embedded_as_a_crop_of_the_bundles_size(options: list[str]) -> None:
    surrogates = load_surrogates(Path(options[options.index("--recognizers") + 1]), TARGET, CROP_PX)
    assert surrogates.target.shape == (1, 3, CROP_PX, CROP_PX)
    assert float(surrogates(surrogates.target)) == pytest.approx(1.0, abs=1e-5)
    assert surrogates.names == ["open"]


def test_the_table_of_the_docs_is_the_committed_results() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "peers.json").read_text())
    text = (ROOT / "docs" / "peers.md").read_text(encoding="utf-8")
    for name, row in result["peers"].items():
        judging = [each for each in row["recognizers"].values() if each["role"] == "black-box"]
        rates = [
            " / ".join("-" if each[key] is None else f"{100 * each[key]['value']:.0f}" for each in judging)
            for key in ("asr", "dodging", "esr")
        ]
        looks, network = row["quality"], row["network"]
        cells = [
            *(rate.replace("- / - / -", "-") for rate in rates),
            f"{looks['ssim']['value']:.3f}",
            f"{looks['lpips_alex']['value']:.3f}",
            f"{network['mean_change_levels']:.1f}",
            f"{network['seconds_a_face']:.2g}",
        ]
        assert f"| {name} | {' | '.join(cells)} |" in text


def test_doing_nothing_has_no_settings() -> None:
    assert Clean().settings == {}
