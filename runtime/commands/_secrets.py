"""The options that name a secret. A passphrase is never an argument: other users of the machine see those."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ..authority import Secret

Command = TypeVar("Command", bound=Callable[..., Any])

VARIABLE = "ERASABLEMASK_PASSPHRASE"
NEW_VARIABLE = "ERASABLEMASK_NEW_PASSPHRASE"


def secret_options(command: Command) -> Command:
    """``--key-file`` and ``--passphrase`` of an existing secret; pass both to ``secret_from``."""
    command = click.option(
        "--passphrase",
        "ask",
        is_flag=True,
        help=f"Ask for the passphrase; a script sets ${VARIABLE} instead.",
    )(command)
    return click.option(
        "--key-file", type=click.Path(path_type=Path), metavar="FILE", help="The key, made by keygen."
    )(command)


def new_secret_options(command: Command) -> Command:
    """``--new-key-file`` and ``--new-passphrase`` of the secret to seal with."""
    command = click.option(
        "--new-passphrase",
        "ask_new",
        is_flag=True,
        help=f"Ask for a new passphrase; a script sets ${NEW_VARIABLE} instead.",
    )(command)
    return click.option(
        "--new-key-file", type=click.Path(path_type=Path), metavar="FILE", help="The new key, made by keygen."
    )(command)


def secret_from(key_file: Path | None, ask: bool, *, new: bool = False) -> Secret:
    """The secret that the options name, or else the environment.

    Raises:
        click.UsageError: none is named, or both are.
        SecretError: the key file or passphrase is unusable.
    """
    from ..authority import load_secret

    prefix, variable = ("new-", NEW_VARIABLE) if new else ("", VARIABLE)
    if key_file is not None and ask:
        raise click.UsageError(f"expected one of --{prefix}key-file and --{prefix}passphrase, found both")
    if key_file is not None:
        return load_secret(key_file, None)
    if ask:
        label = "New passphrase" if new else "Passphrase"
        return load_secret(None, click.prompt(label, hide_input=True, confirmation_prompt=new, err=True))
    if variable in os.environ:
        return load_secret(None, os.environ[variable])
    raise click.UsageError(
        f"no secret: give --{prefix}key-file FILE or --{prefix}passphrase, or set ${variable}"
    )
