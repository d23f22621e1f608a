"""``python -m benchmarks.latency``: how fast the networks and whole photos are."""

from __future__ import annotations

from ..common import command_group

COMMANDS = {
    "layers": "Where the time of the int8 networks goes.",
    "networks": "Every library, precision and form of the networks, in turns.",
    "photo": "Whole photos by stage, backends in turns; cold start, memory, batches.",
}

main = command_group(
    "benchmarks.latency", "How fast the networks and whole photos are.", COMMANDS, "networks"
)

if __name__ == "__main__":
    main(prog_name=main.name)
