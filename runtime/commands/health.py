"""``erasablemask health``: does a server answer a real inference? For the probes of containers."""

from __future__ import annotations

import functools
from pathlib import Path

import click

from ..manifest import Role
from ..serving.settings import ROLES
from ._remote import tls_options


@click.command(
    epilog="""\b
    Examples:
      erasablemask health --role authority --url grpcs://localhost:8443 --no-inference \\
          --tls-ca ca.pem --tls-cert probe.pem --tls-key probe.key
      erasablemask health --url grpc://127.0.0.1:8001"""
)
@click.option(
    "--url",
    default="grpc://127.0.0.1:8001",
    show_default=True,
    metavar="URL",
    help="The server, grpc://HOST:PORT or grpcs://HOST:PORT.",
)
@tls_options
@click.option(
    "--role",
    type=click.Choice(ROLES),
    default="public",
    show_default=True,
    help="Whose models must answer; the mask's.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    help="This model must answer instead, such as anonymise; repeatable.",
)
@click.option(
    "--no-inference",
    "only_ready",
    is_flag=True,
    help="Ask only whether server and models call themselves ready: an authority records every inference.",
)
@click.option(
    "--timeout-s",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="Seconds for each model's answer, or for one to somebody else.",
)
def command(
    url: str,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    role: Role,
    models: tuple[str, ...],
    only_ready: bool,
    timeout_s: float,
) -> None:
    """Run one face through every model of a server.

    The exit code is 0 if all answered, 1 if one did not. A public server that is too busy for the face is
    asked whether it answers others, which is as good; that takes up to three times --timeout-s for a model.
    """
    from ..errors import ServingError
    from ..serving.admin import Admin
    from ..serving.health import described, endpoint_of, let_in
    from ..serving.probe import check_well, infer_once
    from ..serving.repository import MODELS

    names = models or MODELS[role]["mask"]
    endpoint = endpoint_of(url, ca=tls_ca, certificate=tls_cert, key=tls_key)
    with Admin(endpoint) as server:
        for name in names:
            entry = described(let_in(functools.partial(server.metadata, name), timeout_s))
            if only_ready:
                continue
            if role == "public":
                let_in(functools.partial(check_well, server, name, entry, timeout_s=timeout_s), timeout_s)
            else:  # it records every attempt, and tells no client how much it has answered
                infer_once(server, name, entry, timeout_s=timeout_s)
        if only_ready and not server.is_ready():
            raise ServingError(f"{url} answers, but is not ready")
    is_so = "answered" if not only_ready else "are ready" if len(names) > 1 else "is ready"
    click.echo(f"{url}: {', '.join(names)} {is_so}")
