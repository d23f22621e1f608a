"""``python -m benchmarks.serving``: what a running server achieves under load."""

from __future__ import annotations

from ..common import command_group

COMMANDS = {
    "throughput": "Fused batches against peers, from 1 to 64 requests at a time.",
    "overhead": "What one face waits for besides its network.",
    "soak": "A server under load for a while: does it grow, slow down or fail?",
}

main = command_group(
    "benchmarks.serving", "What a running server achieves under load.", COMMANDS, "throughput"
)

if __name__ == "__main__":
    main(prog_name=main.name)
