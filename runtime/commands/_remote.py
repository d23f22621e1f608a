"""The options that name what runs the networks: a backend, TensorRT plans, a server."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from ..backends import AUTO, BACKENDS, DEFAULT_BACKEND, TENSORRT, TRITON, BackendFactory, with_plans

Command = TypeVar("Command", bound=Callable[..., Any])

# Photos worked on at once with a server: while one is on its way, others are read, searched and written.
IN_FLIGHT = 4

_FILE = click.Path(path_type=Path)
# Parameter -> option, and the backends with which it means something.
_SERVERS = {
    "url": "--url",
    "tls_ca": "--tls-ca",
    "tls_cert": "--tls-cert",
    "tls_key": "--tls-key",
    "deadline": "--deadline",
    "shared_memory": "--shared-memory",
}
_BELONGS = {
    **{name: (option, (TRITON,)) for name, option in (*_SERVERS.items(), ("in_flight", "--in-flight"))},
    "engines": ("--engines", (TENSORRT, AUTO)),
    "allow_host_code": ("--allow-host-code", (TENSORRT, AUTO)),
}


def backend_options(command: Command, *, plans: bool = False) -> Command:
    """``--backend`` and what belongs to it.

    The command gets ``backend``, what a pipeline takes as its own, and ``in_flight``, a number of photos.

    Args:
        command: has ``--threads``, too.
        plans: its networks may have TensorRT plans. The restorer, a secret, has none.
    """

    @functools.wraps(command)
    def gather(
        *,
        backend: str,
        in_flight: int,
        engines: Path | None = None,
        allow_host_code: bool = False,
        **rest: Any,
    ) -> Any:
        settings = {name: rest.pop(name) for name in _SERVERS}
        _refuse_others_options(backend)
        if backend == TRITON:
            return command(backend=_server(**settings), in_flight=in_flight, **rest)
        if allow_host_code and engines is None:
            raise click.UsageError("--allow-host-code is about plans; name their folder with --engines")
        chosen: Any = backend
        if backend == TENSORRT or (backend == AUTO and engines is not None):
            chosen = _plans(backend, engines, rest["threads"], allow_host_code)
        return command(backend=chosen, in_flight=1, **rest)

    decorated: Any = gather
    if plans:
        decorated = click.option(
            "--allow-host-code",
            is_flag=True,
            help="Load version-compatible plans too: they run code on the processor; only plans you built.",
        )(decorated)
        decorated = click.option(
            "--engines",
            type=_FILE,
            envvar="ERASABLEMASK_ENGINES",
            metavar="FOLDER",
            help="TensorRT plans of the bundle's networks, for tensorrt; with auto tried first.",
        )(decorated)
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
            type=click.Choice([AUTO, *BACKENDS, *([TENSORRT] if plans else []), TRITON]),
            default=DEFAULT_BACKEND,
            show_default=True,
            envvar="ERASABLEMASK_BACKEND",
            help="What runs the networks; auto takes the fastest that works here, "
            f"{'tensorrt plans (--engines), ' if plans else ''}triton a server (--url).",
        ),
    ):
        decorated = decorate(decorated)
    return decorated  # type: ignore[no-any-return]


backend_options_with_plans = functools.partial(backend_options, plans=True)


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


def say_backend(chosen: str) -> None:
    """Says on stderr what ``auto`` chose."""
    if click.get_current_context().params["backend"] == AUTO:
        click.echo(f"Networks run on {chosen}.", err=True)


def _refuse_others_options(backend: str) -> None:
    """Environment variables may stay set for other runs; an option on the command line is a mistake."""
    context = click.get_current_context()
    for name, (option, owners) in _BELONGS.items():
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and backend not in owners:
            raise click.UsageError(f"{option} belongs to --backend {' or '.join(owners)}")


def _plans(backend: str, folder: Path | None, threads: int | None, allow_host_code: bool) -> BackendFactory:
    if folder is None:
        raise click.UsageError(
            f"--backend {TENSORRT} needs --engines FOLDER, the folder engines/ that this makes: "
            "python -m export.repository --tensorrt ..."
        )
    return with_plans(backend, folder, threads=threads, allow_host_code=allow_host_code)


def _server(*, url: str | None, deadline: float, **rest: Any) -> Any:
    from ..backends.triton import TritonServer
    from ..errors import BackendError

    if url is None:
        raise click.UsageError(f"--backend {TRITON} needs --url URL, such as grpc://127.0.0.1:8001")
    try:
        return TritonServer(url=url, deadline_s=deadline, **rest)
    except BackendError as error:
        raise click.UsageError(str(error)) from error
