"""The public server, for real: what it answers, and what it does when something breaks."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from runtime.backends import create_backend
from runtime.manifest import open_bundle, sha256_of
from runtime.shipped import default_bundle
from tests.serving import (
    THREADS,
    Running,
    change_manifest,
    children,
    client,
    erasablemask,
    face_inputs,
    inverted,
    is_running,
    protect,
    serving,
    skip_without_server,
    tensors,
    until_answered,
)

pytest.importorskip("tritonclient.grpc", reason="tritonclient is missing; run: pip install '.[triton]'")
from tritonclient.utils import InferenceServerException

CLIENTS = 16
FACES = 64


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One for all tests that break nothing."""
    skip_without_server()
    with serving(tmp_path_factory.mktemp("serve")) as running:
        yield running


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the shipped bundle that a test may change, with small batches so that it starts quickly."""
    skip_without_server()
    folder = tmp_path / "bundle"
    shutil.copytree(default_bundle("public"), folder)
    change_manifest(folder, max_batch=4)
    return folder


def replace_model(folder: Path, name: str, data: bytes) -> None:
    """Another network with its right hash, as a new export would bring."""
    entry = open_bundle(folder).manifest.models[name]
    (folder / entry.path).write_bytes(data)
    models = {
        **open_bundle(folder).manifest.models,
        name: dataclasses.replace(entry, sha256=sha256_of(data)),
    }
    change_manifest(folder, models=models)


@pytest.fixture(scope="module")
def expected() -> list[NDArray]:
    """What the local backend makes of each face."""
    data = open_bundle(default_bundle("public")).read("protect")
    with create_backend("ort-cpu", data, threads=THREADS) as backend:
        return [backend.run(face_inputs(1, seed))["protected"] for seed in range(FACES)]


def ask_all(
    server: Running, seeds: range = range(FACES), *, fault: Callable[[], None] | None = None
) -> list[tuple[NDArray, list[str]]]:
    """Every face as a request of its own, from many clients, some over HTTP; asked again after an error.

    Args:
        fault: happens once, when half as many answers are there as there are clients: all others still ask.
    """
    answers = itertools.count(1)

    def ask(seed: int) -> tuple[NDArray, list[str]]:
        with client(server, http=seed % 4 == 0) as opened:
            answer = until_answered(lambda: protect(opened, face_inputs(1, seed)))
        if next(answers) == CLIENTS // 2 and fault is not None:
            fault()
        return answer

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(ask, seeds))


def counts(server: Running) -> tuple[int, int]:
    """Faces and fused batches so far."""
    with client(server) as opened:
        stats = opened.get_inference_statistics("protect").model_stats[0]
    return stats.inference_count, stats.execution_count


# What it answers.


def test_many_clients_get_the_very_bits_of_the_local_backend_in_fused_batches(
    server: Running, expected: list[NDArray]
) -> None:
    faces, batches = counts(server)
    answers = ask_all(server)
    more_faces, more_batches = counts(server)
    assert [errors for _, errors in answers] == [[]] * FACES
    for (answer, _), local in zip(answers, expected, strict=True):
        np.testing.assert_array_equal(answer, local)
    assert (more_faces - faces) / (more_batches - batches) > 1


def test_a_request_may_fill_the_largest_batch(server: Running, expected: list[NDArray]) -> None:
    inputs = [face_inputs(1, seed) for seed in range(FACES)]
    batch = {name: np.concatenate([part[name] for part in inputs]) for name in inputs[0]}
    with client(server) as opened:
        np.testing.assert_array_equal(protect(opened, batch), np.concatenate(expected))


def test_the_public_server_has_no_restorer(server: Running) -> None:
    with client(server) as opened:
        assert opened.is_model_ready("protect")
        with pytest.raises(InferenceServerException, match="unknown model 'restore'"):
            opened.is_model_ready("restore")
        with pytest.raises(
            InferenceServerException, match="unknown model 'restore'; this server has: protect, attributes"
        ):
            opened.infer("restore", tensors({"faces": face_inputs(1)["faces"]}))


def test_metrics_count_faces_batches_and_stages(server: Running) -> None:
    def faces() -> float:
        text = (
            urllib.request.urlopen(f"http://127.0.0.1:{server.ports['metrics']}/metrics", timeout=10)
            .read()
            .decode()
        )
        for stage in ("gather", "compute", "split"):
            assert f'erasablemask_stage_seconds_total{{model="protect",stage="{stage}"}}' in text
        assert 'erasablemask_batches_total{model="protect"}' in text
        assert 'nv_inference_queue_duration_us{model="protect"' in text
        (line,) = [x for x in text.splitlines() if x.startswith('erasablemask_faces_total{model="protect"}')]
        return float(line.split()[-1])

    before = faces()
    with client(server) as opened:
        protect(opened, face_inputs(5))
        time.sleep(1.1)  # they are reported once a second, with the next batch
        protect(opened, face_inputs(1))
    assert faces() >= before + 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"faces": np.zeros((1, 64, 64, 3), np.uint8)},
            r"expected 'faces' to be UINT8 \(faces, 128, 128, 3\), found 'UINT8'",
        ),
        ({"strength": np.zeros((2, 1), np.float32)}, r"expected as many rows in every input, found 1, 2"),
        ({"faces": np.zeros((1, 128, 128, 3), np.float32)}, r"expected 'faces' to be UINT8 .*, found 'FP32'"),
        ({"injection": None}, r"expected the inputs faces, attributes, strength, injection, each once"),
        ({"unknown": np.zeros((1, 1), np.float32)}, r"expected the inputs faces, .*'.*unknown.*'"),
        (
            {"strength": np.full((1, 1), np.nan, np.float32)},
            r"INVALID_ARGUMENT\] expected finite numbers in 'strength'",
        ),
        ({"attributes": np.full((1, 13), np.inf, np.float32)}, r"expected finite numbers in 'attributes'"),
    ],
)
def test_bad_inputs_get_an_error_and_the_server_goes_on(
    server: Running, expected: list[NDArray], change: dict[str, Any], message: str
) -> None:
    inputs = {name: values for name, values in {**face_inputs(1), **change}.items() if values is not None}
    with client(server) as opened:
        with pytest.raises(InferenceServerException, match=message):
            protect(opened, inputs)
        np.testing.assert_array_equal(protect(opened, face_inputs(1)), expected[0])


def test_too_many_faces_in_a_request_are_an_error(server: Running, expected: list[NDArray]) -> None:
    with client(server) as opened:
        with pytest.raises(InferenceServerException, match="expected 1 to 64 faces in a request, found 65"):
            protect(opened, face_inputs(65))
        np.testing.assert_array_equal(protect(opened, face_inputs(1)), expected[0])


def test_a_request_that_is_not_finite_spoils_no_other(server: Running, expected: list[NDArray]) -> None:
    """Sound and unsound requests arrive together, so that they meet in fused batches."""

    def ask(seed: int) -> NDArray | str:
        inputs = face_inputs(1, seed)
        if seed % 3 == 0:
            inputs["strength"][:] = np.nan
        with client(server) as opened:
            try:
                return protect(opened, inputs)
            except InferenceServerException as error:
                return str(error)

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(ask, range(24)))
    for seed, answer in enumerate(answers):
        if seed % 3 == 0:
            assert "expected finite numbers in 'strength'" in str(answer)
        else:
            np.testing.assert_array_equal(answer, expected[seed])


def test_calls_that_change_the_server_are_not_for_clients(server: Running) -> None:
    with client(server) as opened:
        for call in (
            lambda: opened.unload_model("protect"),
            lambda: opened.load_model("protect"),
            opened.get_model_repository_index,
            opened.get_system_shared_memory_status,
            lambda: opened.register_system_shared_memory("x", "/x", 1),
            lambda: opened.update_trace_settings(settings={"trace_level": "TENSORS"}),
            lambda: opened.update_log_settings({"log_verbose_level": 1}),
        ):
            with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
                call()
        assert opened.is_model_ready("protect")


def test_health_runs_an_inference(server: Running) -> None:
    url = f"grpc://{server.url}"
    done = erasablemask("health", "--url", url)
    assert (done.returncode, done.stdout) == (0, f"{url}: protect, attributes answered\n")
    assert erasablemask("health", "--url", url, "--model", "restore").returncode == 1
    nobody = erasablemask("health", "--url", "grpc://127.0.0.1:1")
    assert nobody.returncode == 1
    assert "Error: Triton could not describe protect: UNAVAILABLE" in nobody.stderr


# What it does when something breaks.


def test_a_killed_stub_and_a_killed_server_are_replaced_under_load(
    tmp_path: Path, bundle: Path, expected: list[NDArray]
) -> None:
    with serving(tmp_path, bundle=bundle) as server:
        triton = server.triton_pid()
        stub = server.stub_pid("protect")
        answers = ask_all(server, fault=lambda: os.kill(stub, signal.SIGKILL))
        for (answer, _), local in zip(answers, expected, strict=True):
            np.testing.assert_array_equal(answer, local)
        assert any(errors for _, errors in answers)
        server.wait_for("protect does not answer and is loaded again: its process died")
        server.wait_for("protect answers again")
        assert server.triton_pid() == triton

        answers = ask_all(server, fault=lambda: os.kill(triton, signal.SIGKILL))
        for (answer, _), local in zip(answers, expected, strict=True):
            np.testing.assert_array_equal(answer, local)
        assert any(errors for _, errors in answers)
        assert f"the server ended with status {128 + signal.SIGKILL}" in server.log()
        assert server.triton_pid() != triton
        prefix = f"erasablemask-{server.process.pid}-"
        server.wait_for("ready: ", times=2)
        assert not list(Path("/dev/shm").glob(f"{prefix}*"))
        assert server.stop() == 0
        assert not list(Path("/dev/shm").glob(f"{prefix}*"))


def test_a_stub_that_hangs_is_replaced(tmp_path: Path, bundle: Path, expected: list[NDArray]) -> None:
    """What it had begun is lost, and Triton waits for it at its end, as long as it may."""
    options = ("--probe-interval-s", "0.5", "--probe-timeout-s", "2.5", "--drain-s", "1")
    with serving(tmp_path, *options, bundle=bundle) as server:
        hanging = server.stub_pid("protect")
        os.kill(hanging, signal.SIGSTOP)
        server.wait_for("protect does not answer and is loaded again")
        with client(server) as opened:
            answer, _ = until_answered(lambda: protect(opened, face_inputs(1), timeout_s=5))
        np.testing.assert_array_equal(answer, expected[0])
        assert hanging not in children(server.triton_pid())


def test_a_server_that_hangs_is_restarted(tmp_path: Path, bundle: Path, expected: list[NDArray]) -> None:
    options = ("--probe-interval-s", "0.5", "--probe-timeout-s", "2.5")
    with serving(tmp_path, *options, bundle=bundle) as server:
        os.kill(server.triton_pid(), signal.SIGSTOP)
        server.wait_for("restarting the server in 0.5 s")
        with client(server) as opened:
            answer, _ = until_answered(lambda: protect(opened, face_inputs(1), timeout_s=5))
        np.testing.assert_array_equal(answer, expected[0])
        assert server.stop() == 0


def test_updates_are_served_if_they_prove_well(tmp_path: Path, bundle: Path, expected: list[NDArray]) -> None:
    good = (bundle / "protect.onnx").read_bytes()
    with serving(tmp_path, bundle=bundle) as server, client(server) as opened:

        def update(said: str) -> None:
            server.process.send_signal(signal.SIGHUP)
            server.wait_for(said)

        def version_and_answer() -> tuple[str, NDArray]:
            result = opened.infer("protect", tensors(face_inputs(1)))
            return result.get_response().model_version, result.as_numpy("protected")

        (bundle / "protect.onnx").write_bytes(b"a file that was not copied whole")
        update("no update, the old version goes on serving: " + str(bundle / "protect.onnx"))
        replace_model(bundle, "protect", b"no network, though its hash is right")
        update("no update, the old version goes on serving: Triton could not load protect")
        version, answer = version_and_answer()
        assert version == "1"
        np.testing.assert_array_equal(answer, expected[0])
        (workplace,) = server.repository().glob("protect")
        assert sorted(path.name for path in workplace.iterdir() if path.is_dir()) == ["1", "configs"]

        replace_model(bundle, "protect", inverted(good, "protected"))
        update("updated: protect 2")
        version, answer = version_and_answer()
        assert version == "2"
        np.testing.assert_array_equal(answer, 255 - expected[0])
        assert sorted(path.name for path in workplace.iterdir() if path.is_dir()) == ["2", "configs"]

        change_manifest(bundle, max_batch=8)
        update("has other tensors, batch sizes or instances than the one served")
        np.testing.assert_array_equal(version_and_answer()[1], 255 - expected[0])


def test_an_update_under_load_loses_nothing(tmp_path: Path, bundle: Path, expected: list[NDArray]) -> None:
    """The old version still answers what it has begun when the new one is served already."""
    model = onnx.load(bundle / "protect.onnx")
    model.doc_string = "the same network in other bytes"
    replace_model(bundle, "protect", model.SerializeToString())
    with serving(tmp_path, bundle=bundle) as server:
        replace_model(bundle, "protect", (default_bundle("public") / "protect.onnx").read_bytes())
        answers = ask_all(server, fault=lambda: server.process.send_signal(signal.SIGHUP))
        server.wait_for("updated: protect 2")
        answers += ask_all(server, range(CLIENTS))
        time.sleep(1)
        lost = [error for _, errors in answers for error in errors if "busy; try again" not in error]
        assert lost == []
        for (answer, _), local in zip(answers, expected + expected[:CLIENTS], strict=True):
            np.testing.assert_array_equal(answer, local)
        assert "process died" not in server.log()
        assert server.stop() == 0


def test_a_full_queue_answers_busy_at_once(tmp_path: Path, bundle: Path) -> None:
    change_manifest(bundle, max_batch=2)
    with serving(tmp_path, "--probe-interval-s", "0.2", bundle=bundle) as server:

        def ask(seed: int) -> tuple[float, str]:
            started = time.monotonic()
            with client(server, http=seed % 4 == 0) as opened:
                try:
                    protect(opened, face_inputs(2, seed))
                except InferenceServerException as error:
                    return time.monotonic() - started, str(error)
                return time.monotonic() - started, ""

        with ThreadPoolExecutor(48) as pool:
            answers = list(pool.map(ask, range(192)))
        busy = [(seconds, error) for seconds, error in answers if error]
        served = [seconds for seconds, error in answers if not error]
        assert served
        for protocol in ("StatusCode.RESOURCE_EXHAUSTED", "503"):
            assert any(protocol in error for _, error in busy)
        for _, error in busy:
            assert "StatusCode.RESOURCE_EXHAUSTED" in error or "503" in error
            assert "busy; try again" in error
        waited_s = np.median([seconds for seconds, _ in busy])
        assert waited_s < np.median(served)
        assert waited_s < 1
        with client(server) as opened:
            protect(opened, face_inputs(1))

        over = threading.Event()

        def go_on(seed: int) -> int:
            turned_away = 0
            while not over.is_set():
                turned_away += "busy" in ask(seed)[1]
            return turned_away

        with ThreadPoolExecutor(16) as pool:
            work = [pool.submit(go_on, seed) for seed in range(16)]
            probes = [erasablemask("health", "--url", f"grpc://{server.url}") for _ in range(3)]
            over.set()
            assert sum(one.result() for one in work) > 0
        assert [probe.returncode for probe in probes] == [0, 0, 0], probes
        assert "does not answer" not in server.log()  # though its probes were turned away, too


def test_requests_in_flight_are_answered_before_the_end(
    tmp_path: Path, bundle: Path, expected: list[NDArray]
) -> None:
    """Each request fills a batch: when the first is answered, the last has hardly begun."""
    count = 32
    change_manifest(bundle, max_batch=count)
    parts = [face_inputs(1, seed) for seed in range(count)]
    faces = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    connected, begin = threading.Semaphore(0), threading.Event()

    def ask(index: int) -> NDArray:
        with client(server, http=index % 2 == 0) as opened:
            opened.is_model_ready("protect")
            connected.release()
            begin.wait(30)
            return protect(opened, faces)

    with serving(tmp_path, bundle=bundle) as server, ThreadPoolExecutor(3) as pool:
        work = [pool.submit(ask, index) for index in range(3)]
        for _ in work:
            assert connected.acquire(timeout=30)
        begin.set()
        wait(work, timeout=30, return_when=FIRST_COMPLETED)
        server.process.send_signal(signal.SIGTERM)
        assert not all(one.done() for one in work)
        for one in work:
            np.testing.assert_array_equal(one.result(30), np.concatenate(expected[:count]))
        assert server.process.wait(40) == 0
        assert "ended with status 0" in server.log()


def test_triton_ends_with_its_supervisor(tmp_path: Path, bundle: Path) -> None:
    with serving(tmp_path, bundle=bundle) as server:
        triton, folder = server.triton_pid(), server.repository().parent
        server.process.kill()
        server.process.wait(10)
        until = time.monotonic() + 20
        while is_running(triton) and time.monotonic() < until:
            time.sleep(0.1)
        assert not is_running(triton)
        shutil.rmtree(folder)
