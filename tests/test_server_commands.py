"""The server's commands as far as they go without a server."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from runtime.cli import main
from runtime.errors import MissingExtraError, ServingError
from runtime.serving import environment
from runtime.serving.admin import Admin
from runtime.serving.endpoint import Endpoint, free_port
from runtime.serving.logs import log_to_stderr
from runtime.serving.public import arrange_public
from runtime.serving.settings import ServerSettings
from runtime.serving.signals import END, UPDATE
from runtime.shipped import default_bundle


@pytest.fixture(autouse=True)
def _process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command takes over the package's log and the signals of the process; tests give them back."""
    monkeypatch.setenv("GRPC_VERBOSITY", "ERROR")
    root = logging.getLogger("runtime")
    log = root.handlers, root.level, root.propagate
    handlers = {number: signal.getsignal(number) for number in (*END, UPDATE)}
    yield
    root.handlers, root.level, root.propagate = log
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("made", "said"), [(True, "made"), (False, "is as it should be")])
def test_serve_env_says_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: bool, said: str
) -> None:
    folders: list[Path] = []

    def make(folder: Path) -> bool:
        folders.append(folder)
        return made

    monkeypatch.setattr(environment, "make_environment", make)
    result = CliRunner().invoke(main, ["serve-env", str(tmp_path)])
    assert (result.exit_code, result.output) == (0, f"{tmp_path}: {said}\n")
    assert folders == [tmp_path]


def test_serve_without_a_server_fails_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = str(tmp_path / "none")
    options = ["--role", "public", "--environment", missing, "--grpc-port", str(free_port())]
    result = CliRunner().invoke(main, ["serve", *options])
    assert result.exit_code == 1
    assert f"Error: there is no tritonserver on PATH, and {missing} cannot be used" in result.output


def test_a_fatal_error_is_a_line_of_json_if_lines_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    options = ["--role", "public", "--environment", str(tmp_path / "none"), "--grpc-port", str(free_port())]
    result = CliRunner().invoke(main, ["serve", *options, "--log-format", "json"])
    assert result.exit_code == 1
    line = json.loads(result.stderr.splitlines()[-1])
    assert (line["level"], line["message"][:32]) == ("error", "there is no tritonserver on PATH")
    assert "Error:" not in result.stderr


def test_the_public_role_is_arranged_from_its_bundle() -> None:
    settings = ServerSettings(role="public", bundle=default_bundle("public"), metrics_port=9000)
    arrangement = arrange_public(settings)
    assert list(arrangement.read()) == ["protect", "attributes"]
    assert arrangement.endpoint.grpc_port != settings.grpc_port  # which is the door's
    assert arrangement.endpoint.metrics_port == 9000
    assert (arrangement.endpoint.http_port, len(arrangement.doors)) == (None, 1)
    with pytest.raises(ServingError, match="expected --config-name to be one of trt"):
        arrange_public(ServerSettings(role="public", bundle=settings.bundle, config_name="x"))


@pytest.mark.parametrize("blocked", ["tritonclient", "tritonclient.grpc"])
def test_a_missing_client_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, blocked: str) -> None:
    for name in [name for name in sys.modules if name == blocked or name.startswith(f"{blocked}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, blocked, None)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[triton\]'"):
        Admin(Endpoint(host="127.0.0.1", grpc_port=1))


def test_a_server_that_is_not_there_is_not_ready() -> None:
    with Admin(Endpoint(host="127.0.0.1", grpc_port=free_port())) as server:
        assert not server.is_ready()
        with pytest.raises(ServingError, match="Triton could not load protect: UNAVAILABLE"):
            server.load("protect", timeout_s=1)


def test_logs_go_to_stderr_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of libraries too, in the same form."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger(), "level", logging.WARNING)
    log_to_stderr("text")
    log_to_stderr("json")
    logging.getLogger("runtime.serving.x").info("hello")
    logging.getLogger("runtime.serving.x").debug("too much")
    logging.getLogger("grpc._server").info("too much, too")
    try:
        raise ValueError("junk")
    except ValueError:
        logging.getLogger("grpc._server").exception("no message")
    out, err = capsys.readouterr()
    assert out == ""
    first, second = map(json.loads, err.splitlines())
    assert (first["logger"], first["message"]) == ("runtime.serving.x", "hello")
    assert (second["logger"], second["level"]) == ("grpc._server", "error")
    assert "ValueError: junk" in second["exception"]
