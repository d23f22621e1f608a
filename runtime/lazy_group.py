"""A group of commands whose modules are imported only when a command runs, so that help is instant."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from .errors import ErasableMaskError


class LazyGroup(click.Group):
    """A group whose commands are the ``command`` of a package's modules.

    Args:
        package: where the modules are, named like their commands with _ for -.
        table: the line shown in the list of commands, by command.
    """

    def __init__(self, *args: Any, package: str, table: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._package = package
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(self._table)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Imports one command."""
        if name not in self._table:
            return None
        module = importlib.import_module(f"{self._package}.{name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self._table.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; what the user can mend becomes one line on stderr and exit code 1."""
        try:
            return super().invoke(ctx)
        except ErasableMaskError as error:
            raise click.ClickException(str(error)) from error
