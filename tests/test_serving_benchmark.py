"""The serving benchmark's parts that need no Triton: the plain server and what the load generator says."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install '.[bench]'")
import uvicorn
from click.testing import CliRunner

from benchmarks.schema import read_result
from benchmarks.serving import inside, overhead, served, soak
from benchmarks.serving.inside import Inside
from benchmarks.serving.overhead import Round
from benchmarks.serving.perf_analyzer import Load, LoadError, find, measure, read_table
from benchmarks.serving.plain_server import application
from benchmarks.serving.served import (
    Running,
    Server,
    backends_of,
    model_of,
    upstream_url,
    wait_until_ready,
    write_repository,
)
from benchmarks.serving.soak import (
    GROWTH_LIMIT_MIB,
    Clients,
    by_minute,
    growth_mib,
    memory,
    slope_mib_per_hour,
)
from benchmarks.serving.throughput import knobs, network_ms_per_face, peers, row_of, split
from runtime.backends import create_backend
from runtime.manifest import open_bundle
from runtime.shipped import default_bundle

from .conftest import MakeBundle
from .toy_anonymiser import toy_anonymiser

http = pytest.importorskip(
    "tritonclient.http", reason="tritonclient is not installed: pip install '.[triton]'"
)

TABLE = (
    "Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,"
    "Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency,"
    "Avg latency,request/response,response wait\n"
    "4,49.5,181,2890,10,20,43183,400,3,46870,64878,70698,82646,46258,184,46047\n"
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A plain server of the shipped ``protect`` network."""
    bundle = open_bundle(default_bundle("public"))
    with create_backend("ort-cpu", bundle.read("protect"), threads=1) as network:
        app = application("protect", bundle.manifest.models["protect"], bundle.manifest.max_batch, network)
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"127.0.0.1:{port}"
        server.should_exit = True
        thread.join(timeout=10)


def test_the_plain_server_computes_what_the_network_does(url: str) -> None:
    rng = np.random.default_rng(0)
    values = {
        "faces": rng.integers(0, 256, (3, 128, 128, 3), np.uint8),
        "attributes": rng.integers(0, 2, (3, 13)).astype(np.float32),
        "strength": np.full((3, 1), 0.5, np.float32),
        "injection": np.full((3, 1), 0.05, np.float32),
    }
    inputs = []
    for name, array in values.items():
        inputs.append(http.InferInput(name, list(array.shape), "UINT8" if name == "faces" else "FP32"))
        inputs[-1].set_data_from_numpy(array)
    with http.InferenceServerClient(url) as client:
        before = client.get_inference_statistics("protect")["model_stats"][0]
        served = client.infer("protect", inputs).as_numpy("protected")
        after = client.get_inference_statistics("protect")["model_stats"][0]
    with create_backend(
        "ort-cpu", open_bundle(default_bundle("public")).read("protect"), threads=1
    ) as network:
        np.testing.assert_array_equal(served, network.run(values)["protected"])
    assert after["inference_count"] - before["inference_count"] == 3
    assert after["execution_count"] - before["execution_count"] == 1


def test_the_generators_table_is_read_in_milliseconds() -> None:
    load = read_table(TABLE)
    assert load.concurrency == 4
    assert load.requests_per_s == pytest.approx(4 / 0.046258)
    assert load.client_ms == {"p50": 46.87, "p90": 64.878, "p95": 70.698, "p99": 82.646}
    assert load.server_ms == {
        "queue": 0.01,
        "compute_input": 0.02,
        "compute_infer": 43.183,
        "compute_output": 0.4,
    }


def test_an_empty_table_is_an_error() -> None:
    with pytest.raises(LoadError, match="expected one row of perf_analyzer, found 0"):
        read_table(TABLE.splitlines()[0])


def test_a_missing_generator_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LoadError, match=r"there is no perf_analyzer.*make bench-env"):
        find(tmp_path)


def test_a_generator_that_fails_is_quoted(tmp_path: Path) -> None:
    program = tmp_path / "perf_analyzer"
    program.write_text("#!/bin/sh\necho 'failed to get model metadata' >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(LoadError, match=r"failed at .*: failed to get model metadata"):
        measure(program, url="127.0.0.1:1", protocol="grpc", model="m", faces=1, concurrency=1, requests=1)


def test_an_anonymiser_is_asked_for_its_own_network(make_bundle: MakeBundle, tmp_path: Path) -> None:
    """By default only on what computes in float32; the mask is what it was."""
    bundle = toy_anonymiser(make_bundle)
    assert model_of(bundle.manifest) == "anonymise"
    assert backends_of(bundle.manifest, ()) == ["ort-cpu"]
    assert backends_of(bundle.manifest, ("openvino-fp32",)) == ["openvino-fp32"]
    write_repository(bundle.folder, tmp_path / "models", Server(name="fused"))
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["anonymise"]
    times_ms = network_ms_per_face(bundle.folder, "ort-cpu", 1)
    assert all(ms > 0 for ways in times_ms.values() for ms in ways.values())
    shipped = open_bundle(default_bundle("public")).manifest
    assert (model_of(shipped), backends_of(shipped, ())) == ("protect", ["ort-cpu", "openvino-bf16"])


def test_the_compared_repositories_differ_in_what_is_compared(tmp_path: Path) -> None:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    def config(name: str, server: Server) -> Any:
        write_repository(default_bundle("public"), tmp_path / name, server)
        assert (tmp_path / name / "attributes" / "1" / "model.onnx").is_file()
        text = (tmp_path / name / "protect" / "config.pbtxt").read_text()
        return text_format.Parse(text, model_config_pb2.ModelConfig())

    fused = config("fused", Server(name="fused"))
    single = config("single", Server(name="single", fused=False))
    waiting = config("waiting", Server(name="waiting", delay_us=500, instances=2))
    bounded = config("bounded", Server(name="bounded", max_queue=64, preferred=(8,)))
    assert fused.HasField("dynamic_batching")
    assert not single.HasField("dynamic_batching")
    assert waiting.dynamic_batching.max_queue_delay_microseconds == 500
    assert bounded.dynamic_batching.default_queue_policy.max_queue_size == 64
    assert list(bounded.dynamic_batching.preferred_batch_size) == [8]
    assert (fused.instance_group[0].count, waiting.instance_group[0].count) == (1, 2)
    single.dynamic_batching.CopyFrom(fused.dynamic_batching)
    assert single == fused


@pytest.mark.parametrize("compared", [peers, knobs, split])
def test_what_is_compared_has_different_names_and_one_backend(compared: Any) -> None:
    servers = compared("ort-cpu", 2)
    assert len({server.name for server in servers}) == len(servers)
    assert {server.backend for server in servers} == {"ort-cpu"}
    assert {server.threads * server.instances for server in servers} <= {2, 4}


def test_the_generator_finds_the_wheels_libraries_from_a_relative_folder_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``make bench-quick`` names it. The stand-in reads a library as the loader would, then tells."""
    libraries = tmp_path / "venv" / "lib" / "python3.11" / "site-packages" / "nvidia_pytriton.libs"
    libraries.mkdir(parents=True)
    (libraries / "libb64-98cb6333.so.0d").write_text("a library")
    program = tmp_path / "venv" / "bin" / "perf_analyzer"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        'cat "${LD_LIBRARY_PATH%%:*}/libb64.so.0d" || exit 1\n'
        'for last in "$@"; do :; done\n'
        f"cat > \"$last\" <<'END'\n{TABLE}END\n"
    )
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    asked = {"url": "nowhere", "protocol": "grpc", "model": "protect", "faces": 1}
    found = measure(find(Path("venv")), **asked, concurrency=4, requests=1)
    assert found.concurrency == 4


def test_a_row_is_the_median_of_the_rounds() -> None:
    loads = [
        Load(concurrency=4, requests_per_s=rate, client_ms={"p50": 100 / rate}, server_ms={"queue": 1.0})
        for rate in (10.0, 50.0, 20.0)
    ]
    row = row_of(Server(name="s"), list(zip(loads, (1.0, 2.0, 4.0), strict=True)))
    assert (row["faces_per_s"], row["faces_per_s_range"], row["mean_batch"]) == (20.0, [10.0, 50.0], 2.0)
    assert row["client_ms"] == {"p50": 5.0}


def test_overhead_is_all_that_the_network_does_not_take() -> None:
    """Means of 8 and 10 ms less 6 and 7 ms: 2 and 3 ms, so 2.5."""
    rounds = [
        Round(times_ms=[7.0, 9.0], phases_ms={"queue": 0.5, "compute": 6.0}),
        Round(times_ms=[10.0, 10.0], phases_ms={"queue": 0.1, "compute": 7.0}),
    ]
    row = overhead.row_of("ort-cpu", "door", rounds)
    assert (row["overhead_ms"], row["p50_ms"], row["requests"]) == (2.5, 9.5, 4)
    assert row["phases_ms"] == {"queue": pytest.approx(0.3), "compute": 6.5}
    alone = overhead.row_of("ort-cpu", "network alone", [Round(times_ms=[5.0], phases_ms={})])
    assert alone.keys() == {"backend", "path", "requests", "p50_ms", "p95_ms"}


class Told:
    """A server whose statistics and metrics grow by what one request took."""

    def __init__(self) -> None:
        self.requests, self.model = 0, "protect"
        self.metrics = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        threading.Thread(target=self.metrics.serve_forever, daemon=True).start()
        self.metrics_port = self.metrics.server_port

    def ask(self) -> None:
        self.requests += 1

    def statistics(self) -> dict[str, Any]:
        phases = {"queue": 1, "compute_input": 2, "compute_infer": 3, "compute_output": 4}
        times = {name: {"ns": str(1_000_000 * ms * self.requests)} for name, ms in phases.items()}
        return {"inference_stats": {**times, "success": {"count": str(self.requests)}}}

    def handler(self) -> type[BaseHTTPRequestHandler]:
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                lines = ['erasablemask_stage_seconds_total{model="attributes",stage="compute"} 99']
                lines += [f'erasablemask_batches_total{{model="protect"}} {2 * told.requests}']
                for stage, seconds in (("gather", 0.001), ("compute", 0.004), ("split", 0.002)):
                    name = f'erasablemask_stage_seconds_total{{model="protect",stage="{stage}"}}'
                    lines += [f"{name} {seconds * told.requests}"]
                self.send_response(200)
                self.end_headers()
                self.wfile.write("\n".join(lines).encode())

            def log_message(self, *_: object) -> None:
                """Not on stderr."""

        return Handler


def test_a_servers_phases_are_means_over_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton counts requests, the network's process batches, of which this one has two for every request."""
    monkeypatch.setattr(inside, "_REPORTED_S", 0.0)
    told = Told()
    counting = Inside(told)
    counting.begin(told.ask)
    for _ in range(5):
        told.ask()
    assert counting.end(told.ask) == pytest.approx(
        {"queue": 1, "compute_input": 2, "compute_infer": 3, "compute_output": 4}
        | {"gather": 0.5, "compute": 2.0, "split": 1.0}
    )
    told.metrics.shutdown()


def test_a_server_without_metrics_tells_nothing_of_its_inside() -> None:
    with pytest.raises(ValueError, match="expected a server with metrics, found one without"):
        Inside(SimpleNamespace(metrics_port=None))


def test_triton_is_found_below_its_supervisor() -> None:
    command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
    command += ["--grpc-address=127.0.0.1", "--grpc-port=7"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()  # only a process that runs has its command line in /proc
        try:
            assert upstream_url(os.getpid()) == "127.0.0.1:7"
        finally:
            child.kill()
    with pytest.raises(ValueError, match=r"expected Triton below process \d+, found none"):
        upstream_url(os.getpid())


def test_growth_is_a_slope_after_the_warm_up() -> None:
    """10 MiB in the first 30 of 100 seconds do not count; 1 MiB in 100 s is 36 MiB an hour."""
    samples = [{"s": float(s), "stub": 100 + min(s, 30) / 3 + s / 100} for s in range(0, 100, 5)]
    assert slope_mib_per_hour(samples, "stub") == pytest.approx(36)


HALF_AN_HOUR = range(0, 1800, 5)
MIB_IN_A_SECOND = 6.0 / 3600


@pytest.mark.parametrize(
    ("size", "fails"),
    [
        (lambda s: 100.0, False),
        # Pools that settle.
        (lambda s: 60 - 10 * np.exp(-s / 150), False),
        (lambda s: 60 + 10 * np.exp(-s / 150), False),
        (lambda s: 100 + 1.2 * MIB_IN_A_SECOND * s, True),
        (lambda s: 60 - 10 * np.exp(-s / 150) + 1.2 * MIB_IN_A_SECOND * s, True),
        # It begins late.
        (lambda s: 100 + max(0, s - 1200) / 150, True),
    ],
)
def test_a_leak_fails_and_a_pool_that_settles_does_not(size: Callable[[float], float], fails: bool) -> None:
    """A line that rises by 6 MiB an hour is 1 MiB higher after the ten minutes between two thirds."""
    samples = [{"s": float(s), "supervisor": float(size(s))} for s in HALF_AN_HOUR]
    assert (growth_mib(samples, "supervisor") > GROWTH_LIMIT_MIB) == fails


def test_a_process_that_is_seen_once_has_not_grown() -> None:
    assert growth_mib([{"s": 0.0}, {"s": 5.0, "stubs": 1.0}], "stubs") == 0


def test_memory_is_that_of_the_process_and_its_children() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; x = b'1' * (64 << 20); print(flush=True); time.sleep(60)"],
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.readline()
    try:
        sizes = memory(os.getpid())
    finally:
        child.kill()
        child.wait()
    assert sizes["stubs"] > 64
    assert sizes["supervisor"] > 10


def test_latencies_are_those_of_their_minute() -> None:
    times = [(100.0 + s, 5.0 if s < 60 else 9.0) for s in range(90)]
    assert by_minute(times, 100.0) == [
        {"minute": 0, "requests": 60, "p50": 5.0, "p99": 5.0},
        {"minute": 1, "requests": 30, "p50": 9.0, "p99": 9.0},
    ]


@pytest.mark.parametrize(
    ("mib_in_a_second", "code"), [(0.0, 0), (5.0, 1)], ids=["memory that stays", "memory that grows"]
)
def test_a_soak_that_grows_is_a_failure(
    url: str, mib_in_a_second: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain server stands for Triton; its memory is made up."""

    @contextmanager
    def running(server: Server, *_: Any, **__: Any) -> Iterator[Running]:
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
            yield Running(
                server=server, model="protect", process=process, url=url, protocol="grpc", http_url=url
            )

    def grown(_: int) -> dict[str, float]:
        return {"stubs": 100.0 + mib_in_a_second * time.monotonic(), "supervisor": 50.0}

    monkeypatch.setattr(soak, "running", running)
    monkeypatch.setattr(soak, "memory", grown)
    monkeypatch.setattr(soak, "SAMPLE_S", 0.1)
    monkeypatch.setattr(soak, "Clients", lambda urls, *rest: Clients(urls[1:], *rest))
    options = ["--minutes", "0.02", "--concurrency", "2", "--out", str(tmp_path / "soak.json")]
    result = CliRunner().invoke(soak.command, options)
    assert result.exit_code == code, result.output
    assert ("grew by more than 1 MiB: stubs\n" in result.output) == bool(code)
    written = read_result(tmp_path / "soak.json")
    assert written["errors"] == []
    assert written["requests"] > 0


def test_a_server_is_ready_when_both_its_doors_are(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log").write_text("starts\nlistens")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        both = Running(
            server=Server(name="one"),
            model="protect",
            process=process,
            url=url,
            protocol="http",
            http_url=url,
        )
        wait_until_ready(both, tmp_path / "log")
        monkeypatch.setattr(served, "_START_S", 0.5)
        with pytest.raises(ValueError, match=r"'one' did not become ready \(.*refused.*\): starts / listens"):
            wait_until_ready(replace(both, http_url="127.0.0.1:1"), tmp_path / "log")


def test_a_soaks_errors_are_kept() -> None:
    clients = Clients(("http://127.0.0.1:1",), default_bundle("public"), 1)
    clients.start()
    until = time.monotonic() + 10
    while not clients.errors and time.monotonic() < until:
        time.sleep(0.01)
    clients.stop()
    assert "refused" in clients.errors[0]
    assert clients.times_ms == []
