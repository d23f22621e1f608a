"""``protect`` and ``erase`` with a Triton server: options, photos in flight, no secret at the client."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from runtime.backends import create_backend
from runtime.backends.triton import TritonServer
from runtime.cli import main
from runtime.commands._batch import _in_order
from runtime.commands._files import Job
from runtime.detection import FaceDetector
from runtime.errors import BackendError, ErasableMaskError
from runtime.manifest import MANIFEST_NAME, Bundle, open_bundle
from runtime.pipeline import Eraser, Protector

from .conftest import (
    ATTRIBUTES,
    CROP_PX,
    PICTURES,
    PORTRAIT,
    attributes_bytes,
    protect_bytes,
    restore_bytes,
)
from .triton_fakes import FakeTriton, model, tensor

FACES = tensor("faces", CROP_PX, CROP_PX, 3, dtype="uint8")
ENTRIES = {
    "protect": model(
        [FACES, tensor("attributes", len(ATTRIBUTES)), tensor("strength", 1), tensor("injection", 1)],
        [replace(FACES, name="protected")],
    ),
    "attributes": model([FACES], [tensor("probabilities", len(ATTRIBUTES))]),
    "restore": model([FACES], [replace(FACES, name="restored")]),
}


@pytest.fixture
def fake() -> Iterator[FakeTriton]:
    networks = {"protect": protect_bytes(), "attributes": attributes_bytes(), "restore": restore_bytes()}
    opened = {name: create_backend("ort-cpu", data, threads=1) for name, data in networks.items()}
    with FakeTriton({name: (ENTRIES[name], backend.run) for name, backend in opened.items()}) as server:
        yield server


def described(bundle: Bundle, *networks: str) -> Bundle:
    """A client's copy: the manifest says what the networks take and give, their files are not there."""
    models = dict(bundle.manifest.models)
    for name in networks:
        (bundle.folder / models[name].path).unlink()
        models[name] = replace(models[name], inputs=ENTRIES[name].inputs, outputs=ENTRIES[name].outputs)
    manifest = replace(bundle.manifest, models=models)
    (bundle.folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return open_bundle(bundle.folder)


@pytest.fixture
def client_bundle(public_bundle: Bundle) -> Bundle:
    return described(public_bundle, "protect", "attributes")


def run(*arguments: object, **environment: str) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], env=environment)


def test_a_photo_is_one_request_for_each_network(
    fake: FakeTriton, client_bundle: Bundle, detector: FaceDetector, group: np.ndarray
) -> None:
    with Protector(client_bundle, backend=TritonServer(url=fake.url("grpc")), threads=1) as protector:
        assert protector.backend == "triton"
        found = protector.protect(group)
    assert len(found.faces) == 2
    assert [(name, len(inputs["faces"])) for name, inputs, _ in fake.requests] == [
        ("attributes", 2),
        ("protect", 2),
    ]


def test_threads_may_share_a_protector(
    fake: FakeTriton, client_bundle: Bundle, astronaut: np.ndarray, hopper: np.ndarray
) -> None:
    """The detector and the connection serve several threads, and each gets what it would get alone."""
    photos = [astronaut, hopper, astronaut[::2, ::2].copy(), hopper[:400]] * 3
    with Protector(client_bundle, backend=TritonServer(url=fake.url("grpc")), threads=1) as protector:
        alone = [protector.protect(photo).pixels for photo in photos[:4]] * 3
        with ThreadPoolExecutor(6) as threads:
            together = list(threads.map(lambda photo: protector.protect(photo).pixels, photos))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_eraser_needs_the_restorer_or_a_server(
    fake: FakeTriton, authority_bundle: Bundle, astronaut: np.ndarray
) -> None:
    with pytest.raises(BackendError, match="expected the restorer's bytes, which only a server has"):
        Eraser(authority_bundle, threads=1)
    bundle = described(authority_bundle, "restore")
    with Eraser(bundle, backend=TritonServer(url=fake.url("http")), threads=1) as eraser:
        assert len(eraser.erase(astronaut).faces) == 1


def test_protect_and_erase_give_what_a_local_run_gives(
    fake: FakeTriton, public_bundle: Bundle, authority_bundle: Bundle, key_file: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(4):
        source = PORTRAIT if number % 2 else PICTURES / "hopper.jpg"
        (photos / f"{number}.jpg").write_bytes(source.read_bytes())
    done = run("protect", "--bundle", public_bundle.folder, "--threads", 1, photos, "-o", tmp_path / "a")
    assert done.exit_code == 0, done.output
    erase = ("erase", "--bundle", authority_bundle.folder, "--threads", 1, tmp_path / "a")
    assert run(*erase, "-o", tmp_path / "b", "--key-file", key_file).exit_code == 0

    described(public_bundle, "protect", "attributes")
    described(authority_bundle, "restore")
    remote = ("--backend", "triton", "--url", fake.url("grpc"))
    served = run(
        "protect", "--bundle", public_bundle.folder, *remote, "--in-flight", 3, photos, "-o", tmp_path / "c"
    )
    assert served.exit_code == 0, served.output
    assert [Path(line.split(":")[0]).name for line in served.stdout.splitlines()] == [
        f"{number}.jpg" for number in range(4)
    ], "the order of the report"
    assert run(*erase, *remote, "-o", tmp_path / "d").exit_code == 0
    for left, right in (("a", "c"), ("b", "d")):
        for number in range(4):
            name = f"{number}.jpg"
            assert (tmp_path / left / name).read_bytes() == (tmp_path / right / name).read_bytes()


def test_a_failure_among_photos_in_flight_stops_no_other(
    fake: FakeTriton, client_bundle: Bundle, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(5):
        (photos / f"{number}.jpg").write_bytes(b"broken" if number == 1 else PORTRAIT.read_bytes())
    done = run(
        "protect", "--bundle", client_bundle.folder, photos, "-o", tmp_path / "out", "--json",
        ERASABLEMASK_BACKEND="triton", ERASABLEMASK_URL=fake.url("http"), ERASABLEMASK_DEADLINE="20",
    )  # fmt: skip
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert report["backend"] == "triton"
    assert [len(entry["faces"]) for entry in report["pictures"]] == [1, 0, 1, 1, 1]
    assert "1.jpg is not a picture" in report["pictures"][1]["error"]
    assert "1 of 5 pictures failed" in done.stderr


def test_a_server_that_refuses_exits_1_and_writes_nothing(
    fake: FakeTriton, client_bundle: Bundle, tmp_path: Path
) -> None:
    fake.faults.append(("INVALID_ARGUMENT", "not today"))
    out = tmp_path / "x.jpg"
    done = run(
        "protect", "--bundle", client_bundle.folder, "--backend", "triton", "--url", fake.url("grpc"),
        PORTRAIT, "-o", out,
    )  # fmt: skip
    assert (done.exit_code, "refused 'attributes': not today" in done.stderr) == (1, True)
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "triton"], "--backend triton needs --url URL, such as grpc://127.0.0.1:8001"),
        (["--backend", "triton", "--url", "host:1"], "expected the server's URL as grpc|grpcs|http|https:"),
        (["--backend", "triton", "--url", "grpc://h:1", "--tls-ca", "x"], "use grpcs://"),
        (["--url", "grpc://host:1"], "--url belongs to --backend triton"),
        (["--backend", "auto", "--tls-cert", "x"], "--tls-cert belongs to --backend triton"),
        (["--in-flight", "2"], "--in-flight belongs to --backend triton"),
        (["--shared-memory"], "--shared-memory belongs to --backend triton"),
    ],
)
@pytest.mark.parametrize("verb", ["protect", "erase"])
def test_a_servers_options_without_it_are_bad_usage(
    verb: str, arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = run(verb, PORTRAIT, "-o", tmp_path / "x.jpg", *arguments)
    assert (done.exit_code, message in done.stderr) == (2, True), done.output


def test_the_environment_may_name_a_server_that_is_not_used(tmp_path: Path) -> None:
    done = run("protect", PORTRAIT, "-o", tmp_path / "x.jpg", ERASABLEMASK_URL="grpc://host:1")
    assert done.exit_code == 0, done.output


def test_erase_with_a_server_takes_no_secret(tmp_path: Path, key_file: Path) -> None:
    done = run(
        "erase", PORTRAIT, "-o", tmp_path / "x.jpg", "--key-file", key_file,
        "--backend", "triton", "--url", "grpc://host:1",
    )  # fmt: skip
    assert (done.exit_code, "the server holds the secret" in done.stderr) == (2, True)


def jobs_of(count: int) -> list[Job]:
    return [Job(Path(f"{number}.jpg"), Path(f"out/{number}.jpg")) for number in range(count)]


def test_work_overlaps_and_keeps_its_order() -> None:
    """Three at once, the first one slowest."""
    running, most, lock = 0, 0, threading.Lock()

    def attempt(job: Job) -> dict:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.1 if job.source.stem == "0" else 0.02)
        with lock:
            running -= 1
        return {"input": job.source.stem}

    found = [entry["input"] for entry in _in_order(attempt, jobs_of(7), 3)]
    assert found == [str(number) for number in range(7)]
    assert most == 3


def test_an_interruption_begins_nothing_more() -> None:
    begun = []

    def attempt(job: Job) -> dict:
        begun.append(job.source.stem)
        time.sleep(0.02)
        if job.source.stem == "1":
            raise ErasableMaskError("stands for Ctrl-C")
        return {}

    with pytest.raises(ErasableMaskError):
        list(_in_order(attempt, jobs_of(50), 2))
    assert len(begun) < 10
