"""``erasablemask health``: does a server answer a real inference? For the probes of containers."""

from __future__ import annotations

import click


@click.command(
    epilog="""\b
    Example:
      erasablemask health --url grpc://127.0.0.1:8001"""
)
@click.option(
    "--url",
    default="grpc://127.0.0.1:8001",
    show_default=True,
    metavar="grpc://HOST:PORT",
    help="The server.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    default=("protect", "attributes"),
    show_default=True,
    help="A model that must answer; repeatable.",
)
@click.option(
    "--timeout-s",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="Seconds for each model's answer.",
)
def command(url: str, models: tuple[str, ...], timeout_s: float) -> None:
    """Run one face through every model of a server.

    The exit code is 0 if all answered, 1 if one did not or was too busy.
    """
    from ..serving.admin import Admin
    from ..serving.endpoint import Endpoint
    from ..serving.health import described, parse_url
    from ..serving.probe import infer_once

    host, port = parse_url(url)
    with Admin(Endpoint(host=host, grpc_port=port)) as server:
        for model in models:
            infer_once(server, model, described(server.metadata(model)), timeout_s=timeout_s)
    click.echo(f"{url}: {', '.join(models)} answered")
