"""``erasablemask serve``: a Triton server with the networks of a bundle."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import click

from ..errors import ErasableMaskError, ServingError
from ..manifest import Role
from ..serving.settings import LOG_FORMATS, ROLES, SERVER_BACKENDS, ServerSettings
from ._secrets import VARIABLE, secret_from

Command = TypeVar("Command", bound=Callable[..., Any])

logger = logging.getLogger(__name__)

PREFIX = "ERASABLEMASK_SERVE"
FILE = click.Path(path_type=Path)
PORT = click.IntRange(1, 65535)
SECONDS = click.FloatRange(min=0, min_open=True)


class _Lines(click.types.StringParamType):
    """Text, of which an environment variable holds a line for each: names have blanks."""

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        """See ``click.ParamType.split_envvar_value``."""
        return [line.strip() for line in rv.splitlines() if line.strip()]


# Field of the settings -> type and help. What has no default here has none, or the role's.
OPTIONS: dict[str, tuple[Any, str]] = {
    "role": (click.Choice(ROLES), "public: protect and attributes; authority: restore."),
    "bundle": (FILE, "Folder of the bundle.  [default: the shipped one of the role]"),
    "repository": (FILE, "Model repository with TensorRT plans, written by export.repository."),
    "config_name": (str, "Which configuration of the repository, such as trt.  [default: ONNX]"),
    "host": (str, "Address that clients reach."),
    "grpc_port": (PORT, "For clients."),
    "http_port": (PORT, "For clients.  [default: no HTTP]"),
    "metrics_port": (PORT, "For Prometheus.  [default: no metrics]"),
    "backend": (click.Choice(SERVER_BACKENDS), "What runs the networks in the wheel's server."),
    "threads": (click.IntRange(min=1), "CPU threads of an instance.  [default: all cores]"),
    "instances": (click.IntRange(min=1), "Processes of each model."),
    "environment": (FILE, "The wheel's environment, see serve-env."),
    "shared_memory": (None, "Let clients on this machine pass faces through shared memory."),
    "start_timeout_s": (SECONDS, "Until every model must have answered."),
    "probe_interval_s": (SECONDS, "Between two inferences that check a model."),
    "probe_timeout_s": (SECONDS, "Until such an inference counts as not answered."),
    "backoff_s": (SECONDS, "Before the first restart; doubled with each that follows soon."),
    "backoff_max_s": (SECONDS, "The longest such wait."),
    "drain_s": (SECONDS, "For requests in flight, after a signal to end."),
    "log_format": (click.Choice(LOG_FORMATS), "Of the lines on stderr."),
    "server_certificate": (FILE, "Authority: its certificate, PEM."),
    "server_key": (FILE, "Authority: the certificate's key, PEM."),
    "client_ca": (FILE, "Authority: certificates of clients must be signed by this, PEM."),
    "client_revocations": (FILE, "Authority: certificates of clients that are revoked, PEM."),
    "client_subjects": (
        _Lines(),
        "Authority: a client that is served, RFC 4514; repeatable, in the environment one a line.  "
        "[default: all]",
    ),
    "max_erasures": (click.IntRange(min=1), "Authority: requests worked on at once."),
    "audit_log": (FILE, "Authority: file that records every erasure."),
    "key_file": (FILE, "Authority: the key that opens the restorer."),
}
_DEFAULTS = {field.name: field.default for field in fields(ServerSettings)}


def _settings_options(command: Command) -> Command:
    for name, (kind, text) in reversed(OPTIONS.items()):
        flag = "--" + name.replace("_", "-")
        if kind is None:
            command = click.option(f"{flag}/--no-{flag[2:]}", name, default=_DEFAULTS[name], help=text)(
                command
            )
            continue
        if name == "client_subjects":
            command = click.option(flag, name, type=kind, multiple=True, help=text)(command)
            continue
        default = _DEFAULTS[name] if isinstance(_DEFAULTS[name], (str, int, float, Path)) else None
        command = click.option(
            flag, name, type=kind, default=default, show_default=default is not None, help=text
        )(command)
    return command


def _read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Makes a TOML file's values the defaults, below flags and environment."""
    if path is None:
        return
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise click.BadParameter(f"cannot read {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path} is not valid TOML: {error}") from error
    if unknown := sorted(values.keys() - OPTIONS.keys()):
        raise click.BadParameter(f"{path} sets {unknown[0]!r}, which is unknown; known: {', '.join(OPTIONS)}")
    ctx.default_map = values


@click.command(
    context_settings={"auto_envvar_prefix": PREFIX},
    epilog="""\b
    Examples:
      erasablemask serve --role public --metrics-port 8002
      erasablemask serve --role authority --server-certificate server.pem --server-key server.key \\
          --client-ca ca.pem --audit-log audit.log --key-file authority.key
      ERASABLEMASK_SERVE_THREADS=2 erasablemask serve --config server.toml""",
)
@click.option(
    "--config",
    type=FILE,
    metavar="TOML",
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    help="File with settings: the options' names, with _ for -.",
)
@_settings_options
@click.option(
    "--passphrase",
    "ask",
    is_flag=True,
    allow_from_autoenv=False,
    help=f"Authority: ask for the passphrase that opens the restorer; a script sets ${VARIABLE} instead.",
)
def command(role: Role | None, bundle: Path | None, ask: bool, **values: Any) -> None:
    """Run a Triton server until SIGTERM or SIGINT, and exit with its status.

    It takes a tritonserver on PATH, or the wheel's from the environment that serve-env makes. Every option
    can also be set as ERASABLEMASK_SERVE_..., or in a TOML file; flags win over the environment, and that
    over the file. SIGHUP serves what the bundle holds by then, if it proves well.
    """
    if role is None:
        raise click.UsageError(f"no role: give --role {' or --role '.join(ROLES)}")

    from ..shipped import default_bundle

    try:
        settings = ServerSettings(role=role, bundle=bundle or default_bundle(role), **values)
    except ServingError as error:
        raise click.UsageError(str(error)) from error

    from ..serving.logs import log_to_stderr

    log_to_stderr(settings.log_format)
    try:
        status = _serve(settings, ask)
    except ErasableMaskError as error:
        if settings.log_format == "text":
            raise
        logger.error("%s", error)
        status = 1
    raise click.exceptions.Exit(status)


def _serve(settings: ServerSettings, ask: bool) -> int:
    """Triton's exit status."""
    from ..serving.arrangement import serve

    if settings.role == "public":
        from ..serving.public import arrange_public

        return serve(settings, arrange_public(settings))

    from ..serving.authority_server import arrange_authority

    with arrange_authority(settings, secret_from(settings.key_file, ask)) as arrangement:
        return serve(settings, arrangement)
