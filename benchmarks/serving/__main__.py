"""``python -m benchmarks.serving``: what a running server achieves under load."""

from __future__ import annotations

import click

from runtime.lazy_group import LazyGroup

COMMANDS = {
    "throughput": "Fused batches against peers, from 1 to 64 requests at a time.",
    "overhead": "What one face waits for besides its network.",
    "soak": "A server under load for a while: does it grow, slow down or fail?",
}


@click.group(
    cls=LazyGroup,
    package="benchmarks.serving",
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: python -m benchmarks.serving throughput --help",
)
def main() -> None:
    """What a running server achieves under load."""


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.serving")
