"""A real server of an anonymiser's bundle: for the same noise, the very bits of the local backend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from export.anonymise import AnonymiseRequest, build_anonymiser
from export.faces import anonymise_inputs, synthetic_faces
from runtime.anonymiser import Anonymiser
from runtime.backends import create_backend
from runtime.backends.triton import TritonServer
from runtime.cli import main
from runtime.manifest import Bundle, open_bundle
from tests.conftest import PORTRAIT
from tests.serving import THREADS, Running, erasablemask, serving, skip_without_server
from tests.tiny_anonymiser import ANONYMISER, anonymiser_run
from tests.tiny_run import SIZE
from tests.tiny_training import Silent

pytest.importorskip("tritonclient.grpc", reason="tritonclient is missing; run: pip install '.[triton]'")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny network, exported as any."""
    skip_without_server()
    folder = tmp_path_factory.mktemp("anonymiser")
    anonymiser_run(folder / "run").train(Silent())
    build_anonymiser(AnonymiseRequest(run=folder / "run", out=folder / "bundle"))
    return open_bundle(folder / "bundle" / "public")


@pytest.fixture(scope="module")
def running(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("serve"), bundle=bundle.folder) as opened:
        yield opened


@pytest.fixture(params=["grpc", "http"])
def server(request: pytest.FixtureRequest, running: Running) -> TritonServer:
    place = running.url if request.param == "grpc" else f"127.0.0.1:{running.ports['http']}"
    return TritonServer(url=f"{request.param}://{place}")


@pytest.mark.parametrize("count", [1, 5])
def test_faces_come_back_as_locally(server: TritonServer, bundle: Bundle, count: int) -> None:
    inputs = anonymise_inputs(synthetic_faces(count, SIZE), ANONYMISER.network.cells)
    with (
        create_backend("ort-cpu", bundle.read("anonymise"), threads=THREADS) as local,
        server.connect("anonymise", bundle.manifest) as remote,
    ):
        np.testing.assert_array_equal(remote.run(inputs)["anonymised"], local.run(inputs)["anonymised"])


def test_a_photo_is_anonymised_as_locally_for_the_same_noise(
    server: TritonServer, bundle: Bundle, astronaut: NDArray[np.uint8]
) -> None:
    results = []
    for backend in ("ort-cpu", server):
        source = np.random.default_rng(0)
        with Anonymiser(
            bundle,
            backend=backend,
            threads=THREADS,
            normal=lambda shape, source=source: source.standard_normal(shape, dtype=np.float32),
        ) as anonymiser:
            results.append(anonymiser.anonymise(astronaut).pixels)
    np.testing.assert_array_equal(*results)


def test_the_command_and_the_health_check_know_it(
    server: TritonServer, running: Running, bundle: Bundle, tmp_path: Path
) -> None:
    arguments = ["anonymise", PORTRAIT, "-o", tmp_path / "out.png", "--bundle", bundle.folder]
    arguments += ["--backend", "triton", "--url", server.url]
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    if server.url.startswith("grpc"):
        well = erasablemask("health", "--url", server.url, "--model", "anonymise")
        assert (well.returncode, well.stdout) == (0, f"{server.url}: anonymise answered\n"), well.stderr
