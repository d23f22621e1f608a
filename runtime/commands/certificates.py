"""``erasablemask certificates``: a CA and what it issues, to try an authority's server out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import CertificateError

if TYPE_CHECKING:
    from ..serving.certificate_maker import Issued


@click.command(
    epilog="""\b
    Example:
      erasablemask certificates trial --host localhost --client clerk"""
)
@click.argument("folder", type=click.Path(path_type=Path), metavar="FOLDER")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    default=("localhost", "127.0.0.1"),
    show_default=True,
    help="DNS name or IP address of the server. May be given several times.",
)
@click.option(
    "--client",
    "clients",
    multiple=True,
    default=("client",),
    show_default=True,
    help="Name of a client, which the log will show. May be given several times.",
)
@click.option("--days", type=click.IntRange(1, 3650), default=30, show_default=True, help="Days of validity.")
def command(folder: Path, hosts: tuple[str, ...], clients: tuple[str, ...], days: int) -> None:
    """Make certificates to try an authority's server out.

    Writes ca.pem, server.pem and one file for each client into FOLDER, which must not exist, each with its
    private key beside it (.key, readable by you only). For real use have certificates issued by a CA of
    yours, whose key is elsewhere.
    """
    from datetime import timedelta

    from ..serving.certificate_maker import CertificateMaker

    names = [name.lower() for name in clients]
    for name in names:
        if not name or name in ("ca", "server") or Path(name).name != name or names.count(name) > 1:
            raise click.BadParameter(
                f"expected different names that can be file names, other than ca and server; found {name!r}",
                param_hint="--client",
            )
    maker = CertificateMaker("ErasableMask trial CA", timedelta(days=days))
    try:
        issued = {"ca": maker.ca, "server": maker.issue(hosts[0], "server", hosts)}
        issued |= {client: maker.issue(client, "client") for client in clients}
    except ValueError as error:
        raise click.UsageError(f"a name cannot stand in a certificate: {error}") from error
    try:
        folder.mkdir(mode=0o700, parents=True)
        for name, pair in issued.items():
            _write(folder / name, pair)
    except FileExistsError as error:
        raise CertificateError(
            f"{folder} exists, and keys are never overwritten; choose another folder"
        ) from error
    except OSError as error:
        raise CertificateError(f"cannot write {folder}: {error.strerror or error}") from error
    for name in issued:
        click.echo(folder / f"{name}.pem")


def _write(stem: Path, pair: Issued) -> None:
    for path, data, mode in (
        (stem.with_name(f"{stem.name}.pem"), pair.certificate, 0o644),
        (stem.with_name(f"{stem.name}.key"), pair.key, 0o600),
    ):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
