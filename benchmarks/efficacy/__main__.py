"""``benchmarks.efficacy``: attack and erasure, measured on saved files with face recognisers."""

from __future__ import annotations

from ..common import command_group

COMMANDS = {
    "calibrate": "Thresholds of recognisers at fixed false accept rates, on LFW.",
    "target": "A target's embedding, for the manifest.",
    "target-choice": "Which of several pictures the fewest strangers pass for.",
    "pictures": "Attack and erasure success, and picture quality (Tables II and VI).",
    "owners": "Whether strangers find a person by other photos.",
    "robustness": "Attack and erasure after image operations (Table V).",
    "peers": "Other people's ways to protect a face beside ours (Table II).",
    "harden": "A professional hacker's recogniser, fine-tuned against adversarial faces.",
    "hardened": "Attack and erasure success on hardened recognisers (Table IV).",
    "eraser": "An eraser trained without the authority's: what a hacker gets back.",
    "anonymiser": "Whether machines still know anonymised faces, and how alike they look (LFW).",
    "reconstruction": "What an attacker gets back of anonymised faces.",
    "ablations": "The method without its parts, trained on one budget (Table VII, Fig. 5).",
    "ablation-plot": "The ablations as a Markdown table and a plot.",
}

main = command_group(
    "benchmarks.efficacy",
    "Attack and erasure, measured on saved files with face recognisers.",
    COMMANDS,
    "pictures",
)

if __name__ == "__main__":
    main(prog_name=main.name)
