"""``python -m benchmarks.latency``: how fast the networks and whole photos are."""

from __future__ import annotations

import click

from runtime.lazy_group import LazyGroup

COMMANDS = {
    "layers": "Where the time of the int8 networks goes.",
    "networks": "Every library, precision and form of the networks, in turns.",
    "photo": "Whole photos by stage, backends in turns; cold start, memory, batches.",
}


@click.group(
    cls=LazyGroup,
    package="benchmarks.latency",
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: python -m benchmarks.latency networks --help",
)
def main() -> None:
    """How fast the networks and whole photos are."""


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.latency")
