"""A server's settings: their ranges, and where they come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from runtime.commands import serve
from runtime.errors import ServingError
from runtime.serving import arrangement, authority_server
from runtime.serving.settings import ServerSettings

AUTHORITY = {
    "role": "authority",
    "bundle": Path("b"),
    "server_certificate": Path("c"),
    "server_key": Path("k"),
    "client_ca": Path("ca"),
    "audit_log": Path("log"),
}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"role": "hacker"}, "expected --role to be one of public, authority, found 'hacker'"),
        ({"backend": "ort-cuda"}, "expected --backend to be one of ort-cpu, .*, found 'ort-cuda'"),
        ({"log_format": "xml"}, "expected --log-format to be one of text, json, found 'xml'"),
        ({"host": ""}, "expected --host to be an address"),
        ({"grpc_port": 0}, "expected --grpc-port to be a port from 1 to 65535, found 0"),
        ({"metrics_port": 70000}, "expected --metrics-port to be a port"),
        ({"http_port": 8001}, "expected different ports, found 8001 for --grpc-port and --http-port"),
        ({"threads": 0}, "expected --threads to be at least 1, found 0"),
        ({"instances": 0}, "expected --instances to be at least 1, found 0"),
        ({"drain_s": float("nan")}, "expected --drain-s to be a number of seconds above 0, found nan"),
        ({"probe_interval_s": 0}, "expected --probe-interval-s to be a number of seconds above 0"),
        ({"backoff_s": 9, "backoff_max_s": 1}, "expected --backoff-max-s to be at least --backoff-s, 9"),
        ({"repository": Path("r"), "instances": 2}, "configurations in --repository say how many instances"),
        ({"audit_log": Path("x")}, "--audit-log is of the authority's server; leave it out"),
        ({**AUTHORITY, "client_ca": None}, "does not start without --client-ca"),
        ({**AUTHORITY, "audit_log": None}, "does not start without --audit-log"),
        ({**AUTHORITY, "http_port": 8000}, "the authority's server has no --http-port"),
        ({**AUTHORITY, "metrics_port": 8002}, "the authority's server has no --metrics-port"),
        ({**AUTHORITY, "shared_memory": True}, "the authority's server has no --shared-memory"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ServingError, match=message):
        ServerSettings(**{"role": "public", "bundle": Path("b"), **fields})


def test_the_defaults_of_both_roles_are_valid() -> None:
    public = ServerSettings(role="public", bundle=Path("b"))
    assert (public.host, public.http_port, public.metrics_port) == ("127.0.0.1", None, None)
    assert ServerSettings(**AUTHORITY).role == "authority"  # type: ignore[arg-type]


def test_every_setting_is_an_option() -> None:
    fields = [field.name for field in dataclasses.fields(ServerSettings)]
    assert list(serve.OPTIONS) == fields


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ServerSettings]:
    """What the command would serve with; it ends with status 3."""
    calls: list[ServerSettings] = []

    def keep(settings: ServerSettings, _arrangement: object) -> int:
        calls.append(settings)
        return 3

    monkeypatch.setattr(arrangement, "serve", keep)
    return calls


def run(*arguments: str, env: dict[str, str] | None = None) -> Any:
    return CliRunner().invoke(serve.command, list(arguments), env=env)


def test_flags_win_over_the_environment_and_that_over_the_file(
    tmp_path: Path, served: list[ServerSettings]
) -> None:
    config = tmp_path / "server.toml"
    config.write_text('role = "public"\nthreads = 1\ninstances = 1\ndrain_s = 1.5\nshared_memory = true\n')
    env = {"ERASABLEMASK_SERVE_THREADS": "2", "ERASABLEMASK_SERVE_INSTANCES": "2"}
    result = run("--config", str(config), "--instances", "3", env=env)
    assert result.exit_code == 3, result.output
    (settings,) = served
    assert (settings.instances, settings.threads, settings.drain_s) == (3, 2, 1.5)
    assert settings.shared_memory
    assert settings.grpc_port == ServerSettings(role="public", bundle=Path("b")).grpc_port


@pytest.mark.parametrize("way", ["flags", "environment", "file"])
def test_subjects_of_clients_may_have_blanks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: list[ServerSettings], way: str
) -> None:
    """Cut at a blank, ``CN=Anna`` would be let in."""

    @contextmanager
    def arranged(settings: ServerSettings, secret: object) -> Iterator[object]:
        yield object()

    monkeypatch.setattr(authority_server, "arrange_authority", arranged)
    subjects = ("CN=Anna Meyer,O=Court of Appeal", "CN=clerk")
    config, flags, env = tmp_path / "server.toml", [], {"ERASABLEMASK_PASSPHRASE": "correct horse battery"}
    lines = [f"{name} = '{value}'" for name, value in AUTHORITY.items()]
    if way == "flags":
        flags = [text for subject in subjects for text in ("--client-subjects", subject)]
    elif way == "environment":
        env["ERASABLEMASK_SERVE_CLIENT_SUBJECTS"] = "\n".join(("", *subjects, ""))
    else:
        lines.append(f"client_subjects = {list(subjects)}")
    config.write_text("\n".join(lines))
    result = run("--config", str(config), *flags, env=env)
    assert result.exit_code == 3, result.output
    assert served[0].client_subjects == subjects


def test_the_file_can_be_named_by_the_environment(tmp_path: Path, served: list[ServerSettings]) -> None:
    config = tmp_path / "server.toml"
    config.write_text('role = "public"\ngrpc_port = 9999\n')
    assert run(env={"ERASABLEMASK_SERVE_CONFIG": str(config)}).exit_code == 3
    assert served[0].grpc_port == 9999


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('role = "public"\ngrpc-port = 1\n', "sets 'grpc-port', which is unknown; known: role, bundle,"),
        ("role =", "is not valid TOML"),
        ('role = "hacker"\n', "'hacker' is not one of 'public', 'authority'"),
        ("threads = 2\n", "no role: give --role public or --role authority"),
        ('role = "public"\nhttp_port = 8001\n', "expected different ports"),
        ('role = "authority"\n', "the authority's server does not start without --server-certificate"),
    ],
)
def test_a_wrong_file_is_wrong_usage(
    tmp_path: Path, served: list[ServerSettings], text: str, message: str
) -> None:
    config = tmp_path / "server.toml"
    config.write_text(text)
    result = run("--config", str(config))
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert served == []


def test_a_missing_file_is_wrong_usage(tmp_path: Path) -> None:
    result = run("--config", str(tmp_path / "none.toml"))
    assert result.exit_code == 2
    assert "No such file" in result.output
