"""The command line. A command's module is imported only when the command runs, so that help is instant."""

from __future__ import annotations

import logging

import click

from .lazy_group import LazyGroup

# Name -> the line shown in the list of commands. The module is runtime.commands.<name>, with _ for -.
COMMANDS = {
    "protect": "Protect every face in photos.",
    "erase": "Erase the protection, as the trusted authority.",
    "anonymise": "Replace every face by one that recognisers should still know.",
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


@click.group(
    cls=LazyGroup,
    package="runtime.commands",
    table=COMMANDS,
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
