"""Bodies of what is measured of the anonymiser, on LFW's pictures."""

from __future__ import annotations

from .on_files import QUALITY, ROLE
from .parts import (
    BUNDLE,
    COUNT,
    ESTIMATE,
    PLAUSIBILITY,
    RATE,
    SUSPICIONS,
    TEXT,
    Schema,
    by_name,
    record,
    several,
)

# ``benchmarks.efficacy.on_lfw.about``, and what both measurements add.
ON_LFW = {
    "bundle": BUNDLE,
    "stochastic": {"type": "boolean"},
    "jpeg_quality": {"type": "integer", "minimum": 1, "maximum": 100},
    "seed": COUNT,
    "data": TEXT,
    "pairs": COUNT,
    "pictures": COUNT,
    "no_face_found": COUNT,
    "plausibility": PLAUSIBILITY,
    "suspicions": SUSPICIONS,
}
STRENGTH: Schema = {"type": "number", "exclusiveMinimum": 0, "maximum": 1}

KNOWN_ROW = record(
    {
        "role": ROLE,
        "accuracy": record(dict.fromkeys(("clean-clean", "anonymised-anonymised", "anonymised-clean"), RATE)),
        "linked": RATE,
        "cosine_to_source": ESTIMATE,
    }
)

ANONYMISER = record(
    {
        **ON_LFW,
        "strengths": several(
            record(
                {
                    "strength": STRENGTH,
                    "lost": COUNT,
                    "recognizers": by_name(KNOWN_ROW),
                    "privacy": QUALITY,
                }
            ),
            least=1,
        ),
    }
)

RECONSTRUCTION = record(
    {
        **ON_LFW,
        "faces": TEXT,
        "strengths": several(
            record(
                {
                    "strength": STRENGTH,
                    "published": QUALITY,
                    "reconstructions": by_name(
                        record(
                            {
                                "releases": {"type": "integer", "minimum": 1},
                                "training": {"type": "object"},
                                "privacy": QUALITY,
                            }
                        )
                    ),
                }
            ),
            least=1,
        ),
    }
)
