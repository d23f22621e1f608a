"""The options that name what runs the networks, a server among them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from ..backends import AUTO, BACKENDS, DEFAULT_BACKEND, TRITON

Command = TypeVar("Command", bound=Callable[..., Any])

# Photos worked on at once with a server: while one is on its way, others are read, searched and written.
IN_FLIGHT = 4

_FILE = click.Path(path_type=Path)
# Parameter -> option; all of them mean something with a server only.
_SERVERS = {
    "url": "--url",
    "tls_ca": "--tls-ca",
    "tls_cert": "--tls-cert",
    "tls_key": "--tls-key",
    "deadline": "--deadline",
    "shared_memory": "--shared-memory",
    "in_flight": "--in-flight",
}


def backend_options(command: Command) -> Command:
    """``--backend`` and what belongs to a server.

    The command gets ``backend``, a name or a ``TritonServer``, and ``in_flight``, a number of photos.
    """

    @functools.wraps(command)
    def gather(*, backend: str, in_flight: int, **rest: Any) -> Any:
        settings = {name: rest.pop(name) for name in _SERVERS if name != "in_flight"}
        if backend != TRITON:
            _refuse_servers_options()
            return command(backend=backend, in_flight=1, **rest)
        return command(backend=_server(**settings), in_flight=in_flight, **rest)

    decorated: Any = gather
    for decorate in (
        click.option(
            "--in-flight",
            type=click.IntRange(1, 256),
            default=IN_FLIGHT,
            show_default=True,
            metavar="N",
            help="Photos worked on at once, with triton.",
        ),
        click.option(
            "--shared-memory",
            is_flag=True,
            help="Hand faces to triton on this host through shared memory, if it allows that.",
        ),
        click.option(
            "--deadline",
            type=click.FloatRange(min=0, min_open=True),
            default=30.0,
            show_default=True,
            envvar="ERASABLEMASK_DEADLINE",
            metavar="SECONDS",
            help="Longest wait for triton's answer, with all repetitions.",
        ),
        tls_options,
        click.option(
            "--url",
            envvar="ERASABLEMASK_URL",
            metavar="URL",
            help="Where triton is: grpc://host:port, or grpcs, http, https.",
        ),
        click.option(
            "--backend",
            type=click.Choice([AUTO, *BACKENDS, TRITON]),
            default=DEFAULT_BACKEND,
            show_default=True,
            envvar="ERASABLEMASK_BACKEND",
            help="What runs the networks; auto takes the fastest that works here, triton a server (--url).",
        ),
    ):
        decorated = decorate(decorated)
    return decorated  # type: ignore[no-any-return]


def tls_options(command: Command) -> Command:
    """``--tls-ca``, ``--tls-cert`` and ``--tls-key``, each a path or None."""
    for variable, text, option in (
        ("ERASABLEMASK_TLS_KEY", "Your certificate's private key.", "--tls-key"),
        ("ERASABLEMASK_TLS_CERT", "Your certificate; an authority's server demands one.", "--tls-cert"),
        (
            "ERASABLEMASK_TLS_CA",
            "Certificates that triton's must come from.  [default: the system's]",
            "--tls-ca",
        ),
    ):
        command = click.option(option, type=_FILE, envvar=variable, metavar="PEM", help=text)(command)
    return command


def say_backend(asked: object, chosen: str) -> None:
    """Says on stderr what ``auto`` chose."""
    if asked == AUTO:
        click.echo(f"Networks run on {chosen}.", err=True)


def _refuse_servers_options() -> None:
    """Environment variables may stay set for other runs; an option on the command line is a mistake."""
    context = click.get_current_context()
    for name, option in _SERVERS.items():
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option} belongs to --backend {TRITON}")


def _server(*, url: str | None, deadline: float, **rest: Any) -> Any:
    from ..backends.triton import TritonServer
    from ..errors import BackendError

    if url is None:
        raise click.UsageError(f"--backend {TRITON} needs --url URL, such as grpc://127.0.0.1:8001")
    try:
        return TritonServer(url=url, deadline_s=deadline, **rest)
    except BackendError as error:
        raise click.UsageError(str(error)) from error
