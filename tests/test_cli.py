"""``protect``, ``erase`` and ``inspect`` as a user runs them: files, reports and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from runtime import shipped
from runtime.authority import generate_key, write_key_file
from runtime.cli import COMMANDS, main
from runtime.manifest import Bundle
from runtime.pictures import read_picture

from .conftest import PICTURES, PORTRAIT, MakeBundle, protect_bytes


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with a portrait at the top and one below, and a note that is no picture."""
    folder = tmp_path / "photos"
    (folder / "trip").mkdir(parents=True)
    (folder / "one.jpg").write_bytes(PORTRAIT.read_bytes())
    (folder / "trip" / "two.jpg").write_bytes((PICTURES / "hopper.jpg").read_bytes())
    (folder / "note.txt").write_text("nothing")
    return folder


@pytest.fixture
def faceless(tmp_path: Path) -> Path:
    """A picture without a face."""
    path = tmp_path / "wall.png"
    Image.new("RGB", (120, 90), "grey").save(path)
    return path


def run(*arguments: object, **environment: str) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], env=environment)


def protect(bundle: Bundle, *arguments: object) -> Result:
    return run("protect", "--bundle", bundle.folder, "--threads", 1, *arguments)


def files_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_protect_then_erase_one_file(
    public_bundle: Bundle, authority_bundle: Bundle, key_file: Path, photos: Path, tmp_path: Path
) -> None:
    protected, restored = tmp_path / "protected.png", tmp_path / "restored.png"
    result = protect(public_bundle, photos / "one.jpg", "-o", protected)
    assert (result.exit_code, result.stdout) == (0, f"{protected}: 1 face protected\n"), result.output
    result = run(
        "erase", protected, "-o", restored, "--bundle", authority_bundle.folder, "--key-file", key_file
    )
    assert (result.exit_code, result.stdout) == (0, f"{restored}: 1 face restored\n"), result.output
    assert "the secret of this demo bundle is public" in result.stderr
    before, after = read_picture(photos / "one.jpg").pixels, read_picture(protected).pixels
    assert (before != after).any()
    np.testing.assert_array_equal(before[300:], after[300:])


def test_protect_a_folder_keeps_its_shape(public_bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = protect(public_bundle, photos, "-o", out, "--json", "--set", "Bangs=1", "--strength", "0.5")
    assert result.exit_code == 0, result.output
    assert files_under(out) == ["one.jpg", "trip/two.jpg"]
    report = json.loads(result.stdout)
    assert (report["bundle"], report["strength"], report["injection"]) == ("toy", 0.5, 0.5)
    assert report["demo"] is False
    assert "Warning" not in result.stderr
    first = report["pictures"][0]
    assert (first["input"], first["output"]) == (str(photos / "one.jpg"), str(out / "one.jpg"))
    assert first["error"] is None
    assert first["faces"][0]["attributes"] == {"Bangs": 1, "Eyeglasses": 1, "Smiling": 0}
    assert first["faces"][0]["mean_change"] > 5


def test_protecting_for_a_demos_authority_warns(
    make_bundle: MakeBundle, photos: Path, tmp_path: Path
) -> None:
    """Its key is published: the protection can be taken off by anybody."""
    result = protect(make_bundle(demo=True), photos / "one.jpg", "-o", tmp_path / "x.jpg", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["demo"] is True
    assert "authority is public: anybody can erase the protection" in result.stderr


def test_an_output_folder_inside_the_input_is_not_read(public_bundle: Bundle, photos: Path) -> None:
    for _ in range(2):
        result = protect(public_bundle, photos, "-o", photos / "out", "--overwrite")
        assert result.exit_code == 0, result.output
    assert files_under(photos / "out") == ["one.jpg", "trip/two.jpg"]


def test_one_failure_in_a_folder_stops_no_other_and_copies_nothing(
    public_bundle: Bundle, photos: Path, faceless: Path, tmp_path: Path
) -> None:
    (photos / "broken.png").write_bytes(b"broken")
    (photos / "phone.heic").write_bytes(b"unknown")
    (photos / "wall.png").write_bytes(faceless.read_bytes())
    out = tmp_path / "out"
    result = protect(public_bundle, photos, photos / "missing.jpg", "-o", out)
    assert result.exit_code == 1
    assert files_under(out) == ["one.jpg", "trip/two.jpg"]
    assert "broken.png is not a picture" in result.stderr
    assert f"Error: {photos / 'wall.png'}: no face was found" in result.stderr
    assert "phone.heic: the suffix must be one of" in result.stderr
    assert f"Error: there is no file {photos / 'missing.jpg'}" in result.stderr
    assert "4 of 6 pictures failed; nothing was written for them" in result.stderr


@pytest.mark.parametrize(
    "case",
    ["no face", "missing", "unreadable", "missing bundle", "tampered", "suffix", "attribute", "strength"],
)
def test_errors_exit_1_and_write_nothing(
    case: str, public_bundle: Bundle, photos: Path, faceless: Path, tmp_path: Path
) -> None:
    source, out, folder = photos / "one.jpg", tmp_path / "out.jpg", public_bundle.folder
    more: list[str] = []
    if case == "no face":
        source, message = faceless, "no face was found"
    elif case == "missing":
        source = photos / "missing.jpg"
        message = f"Error: there is no file {source}"
    elif case == "unreadable":
        source.write_bytes(source.read_bytes()[:2000])
        message = "truncated"
    elif case == "missing bundle":
        folder, message = tmp_path / "nowhere", "is not a bundle"
    elif case == "tampered":
        (folder / "protect.onnx").write_bytes(protect_bytes(change=3))
        message = "was changed or damaged"
    elif case == "suffix":
        out, message = tmp_path / "out.gif", "the suffix must be one of"
    elif case == "strength":
        more, message = ["--strength", "0"], "nothing would be protected"
    else:
        more, message = ["--set", "Beard=1"], "unknown attribute Beard; this bundle knows: Bangs"
    before = files_under(tmp_path)
    result = run("protect", source, "-o", out, "--bundle", folder, *more)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stdout == ""
    assert files_under(tmp_path) == before


def test_a_wrong_or_changed_secret_exits_1_and_writes_nothing(
    authority_bundle: Bundle, photos: Path, tmp_path: Path, key_file: Path
) -> None:
    wrong, out = tmp_path / "wrong.key", tmp_path / "out.jpg"
    write_key_file(wrong, generate_key())
    erase = ("erase", photos / "one.jpg", "-o", out, "--bundle", authority_bundle.folder)
    results = [run(*erase, "--key-file", wrong), run(*erase, ERASABLEMASK_PASSPHRASE="not the key at all")]
    sealed = authority_bundle.folder / "restore.sealed"
    sealed.write_bytes(sealed.read_bytes()[:-1] + b"x")
    results.append(run(*erase, "--key-file", key_file))
    for result in results:
        assert result.exit_code == 1, result.output
        assert result.stderr.startswith("Error: ")
        assert "Traceback" not in result.output
    assert not out.exists()


def test_metrics_tell_what_a_run_did(
    public_bundle: Bundle, photos: Path, faceless: Path, tmp_path: Path
) -> None:
    """Two photos of a face each, one without, one broken; a file from before is replaced whole."""
    (photos / "broken.png").write_bytes(b"broken")
    (photos / "wall.png").write_bytes(faceless.read_bytes())
    metrics = tmp_path / "run.prom"
    metrics.write_text("old\n")
    result = protect(public_bundle, photos, "-o", tmp_path / "out", "--metrics", metrics)
    assert result.exit_code == 1
    lines = metrics.read_text().splitlines()
    assert {
        "erasablemask_run_photos 2",
        "erasablemask_run_faces 2",
        "erasablemask_run_photos_without_face 1",
        "erasablemask_run_failures 1",
        "# TYPE erasablemask_run_stage_seconds gauge",
    } <= set(lines)
    for stage in ("decode", "detect", "align", "network", "paste", "encode"):
        name = f'erasablemask_run_stage_seconds{{stage="{stage}"}} '
        assert [float(line.removeprefix(name)) > 0 for line in lines if line.startswith(name)] == [True]
    assert "old" not in lines
    assert metrics.stat().st_mode & 0o777 == 0o644
    assert not list(tmp_path.glob(".run.prom*"))


def test_metrics_that_cannot_be_written_are_an_error(
    public_bundle: Bundle, photos: Path, tmp_path: Path
) -> None:
    metrics = tmp_path / "absent" / "run.prom"
    result = protect(public_bundle, photos / "one.jpg", "-o", tmp_path / "x.jpg", "--metrics", metrics)
    assert (result.exit_code, f"cannot write {metrics}" in result.stderr) == (1, True)


def test_small_faces_can_be_left_out(public_bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    """The picture is 512 px high: no face of 600 px fits."""
    result = protect(public_bundle, photos / "one.jpg", "-o", tmp_path / "x.jpg", "--min-face", 600)
    assert (result.exit_code, "no face was found" in result.stderr) == (1, True)


def test_existing_outputs_need_overwrite_and_inputs_are_safe(
    public_bundle: Bundle, photos: Path, tmp_path: Path
) -> None:
    source, out = photos / "one.jpg", tmp_path / "out.jpg"
    out.write_bytes(b"precious")
    original = source.read_bytes()
    assert protect(public_bundle, source, "-o", out).exit_code == 1
    assert out.read_bytes() == b"precious"
    assert protect(public_bundle, source, "-o", out, "--overwrite").exit_code == 0
    assert out.read_bytes() != b"precious"
    result = protect(public_bundle, source, "-o", source, "--overwrite")
    assert (result.exit_code, "is the input itself" in result.stderr) == (1, True)
    assert source.read_bytes() == original
    assert protect(public_bundle, source, "-o", source, "--replace-input").exit_code == 0
    assert source.read_bytes() != original


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one.jpg"], "Missing option '-o'"),
        (["one.jpg", "-o", "x.jpg", "--set", "Bangs"], "expected NAME=0 or NAME=1, found 'Bangs'"),
        (["one.jpg", "-o", "x.jpg", "--set", "Bangs=2"], "expected NAME=0 or NAME=1"),
        (["one.jpg", "-o", "x.jpg", "--strength", "2"], "is not in the range"),
        (["one.jpg", "trip/two.jpg", "-o", "one.jpg"], "cannot go into the one file"),
        (["trip", "trip/two.jpg", "-o", "out"], "two.jpg would both become out"),
        (["empty", "-o", "out"], "holds no picture"),
    ],
)
def test_bad_usage_exits_2(
    arguments: list[str], message: str, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "empty").mkdir()
    monkeypatch.chdir(photos)
    (photos / "other").mkdir()
    (photos / "other" / "two.jpg").write_bytes(b"")
    if arguments[0] == "trip":
        arguments = ["trip", "other/two.jpg", *arguments[2:]]
    result = run("protect", *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_erase_without_a_secret_is_bad_usage(authority_bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    result = run("erase", photos / "one.jpg", "-o", tmp_path / "x.jpg", "--bundle", authority_bundle.folder)
    assert (result.exit_code, "no secret" in result.stderr) == (2, True)


def test_without_a_shipped_bundle_the_message_says_what_to_do(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "PRESET", "absent")
    result = run("protect", photos / "one.jpg", "-o", tmp_path / "x.jpg")
    assert (result.exit_code, "name one with --bundle" in result.stderr) == (1, True)


def test_inspect_shows_and_checks_every_file(authority_bundle: Bundle) -> None:
    result = run("inspect", authority_bundle.folder)
    assert result.exit_code == 0, result.output
    assert "role        authority (demo: its secret is public)" in result.stdout
    assert result.stdout.count("SHA-256 agrees") == 6
    assert "restore.sealed" in result.stdout
    assert json.loads(run("inspect", authority_bundle.folder, "--json").stdout)["name"] == "toy"


def test_inspect_names_every_changed_file(public_bundle: Bundle) -> None:
    (public_bundle.folder / "pnet.onnx").write_bytes(b"changed")
    (public_bundle.folder / "rnet.onnx").unlink()
    result = run("inspect", public_bundle.folder)
    assert result.exit_code == 1
    assert "pnet.onnx was changed or damaged" in result.stderr
    assert "cannot read" in result.stderr
    assert result.stdout.count("MISSING OR CHANGED") == 2


def test_logs_name_no_picture(public_bundle: Bundle, photos: Path, tmp_path: Path, caplog) -> None:
    with caplog.at_level("DEBUG"):
        protect(public_bundle, photos / "one.jpg", "-o", tmp_path / "x.jpg")
    assert "1 faces of at least 20 px" in caplog.text
    assert "one.jpg" not in caplog.text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_ends_with_an_example(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0, result.output
    assert f"erasablemask {name}" in result.stdout.strip().splitlines()[-1]


def test_the_groups_help_lists_every_command_and_ends_with_an_example() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for name, line in COMMANDS.items():
        assert f"{name}  " in result.stdout
        assert line in result.stdout
    assert result.stdout.strip().splitlines()[-1].strip().startswith("Example: erasablemask protect")


def test_an_unknown_command_is_bad_usage() -> None:
    result = run("dance")
    assert (result.exit_code, "No such command 'dance'" in result.stderr) == (2, True)
