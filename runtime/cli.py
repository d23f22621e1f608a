"""The command line. A command's module is imported only when the command runs, so that help is instant."""

from __future__ import annotations

import importlib
import logging
from typing import Any

import click

from .errors import ErasableMaskError

# Name -> the line shown in the list of commands. The module is runtime.commands.<name>, with _ for -.
COMMANDS = {
    "protect": "Protect every face in photos.",
    "erase": "Erase the protection, as the trusted authority.",
    "verify": "Compare faces before and after with a face recogniser.",
    "inspect": "Show a bundle and check its files.",
    "recognizers": "List or download face recognisers.",
    "keygen": "Make a key file for an authority.",
    "seal": "Seal an authority bundle again, under another secret.",
    "unseal": "Check that a secret opens an authority bundle.",
    "serve": "Run a Triton server with a bundle's networks.",
    "serve-env": "Make the environment that serve runs its server from.",
    "health": "Check that a server answers a real inference.",
    "audit": "Check, show or rotate the log of an authority's server.",
    "certificates": "Make certificates to try an authority's server out.",
}


class LazyGroup(click.Group):
    """A group whose commands are named in ``COMMANDS`` and imported when asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Imports one command."""
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"runtime.commands.{name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; what the user can mend becomes one line on stderr and exit code 1."""
        try:
            return super().invoke(ctx)
        except ErasableMaskError as error:
            raise click.ClickException(str(error)) from error


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: erasablemask protect photo.jpg -o protected.jpg",
)
@click.version_option(package_name="erasablemask")
@click.option("-v", "--verbose", is_flag=True, help="Log what happens to stderr.")
def main(verbose: bool) -> None:
    """Protect faces in photos from face recognition; a trusted authority can erase the mask."""
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")


if __name__ == "__main__":
    main()
