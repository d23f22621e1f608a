"""Bodies of what is measured on pictures and saved files: attack, erasure, owners, and what they rest on."""

from __future__ import annotations

from .parts import (
    BUNDLE,
    COUNT,
    ESTIMATE,
    NUMBER,
    PLAUSIBILITY,
    RATE,
    SHA256,
    SUSPICIONS,
    TEXT,
    Schema,
    by_name,
    nullable,
    record,
    several,
)

ROLE: Schema = {"enum": ["white-box", "black-box"]}
LOST = record(dict.fromkeys(("clean", "protected", "restored"), COUNT))
CALIBRATION = record({"pictures": COUNT, "pairs": COUNT, "seed": COUNT})

# ``training.evaluation.rates.attack_rates`` for one recogniser.
ATTACK_ROW = record(
    {
        "role": ROLE,
        "threshold": by_name(NUMBER),
        "cosine_to_target": by_name(ESTIMATE),
        "cosine_to_owner": by_name(ESTIMATE),
        **dict.fromkeys(
            ("asr_clean", "esr_clean", "asr", "esr", "dodging", "owner_accepted_restored"),
            RATE,
        ),
    }
)

# ``training.evaluation.rates.owner_rates``: rank_1 and verified_FAR by version.
FOUND = record({"rank_1": RATE}) | {"additionalProperties": RATE}
OWNER_ROW = record({"role": ROLE, "clean": FOUND, "protected": FOUND, "restored": FOUND})

# What every measurement on saved files says of itself (``Laboratory.about``) and of its pictures.
ON_FILES = {
    "bundle": BUNDLE,
    "target": TEXT,
    "jpeg_quality": {"type": "integer", "minimum": 1, "maximum": 100},
    "calibration": CALIBRATION,
    "data": TEXT,
    "no_face_found": COUNT,
    "plausibility": PLAUSIBILITY,
    "suspicions": SUSPICIONS,
}
# The names of the pictures in the order they were taken; results of before this field have none.
LISTED = {"picture_list": several(TEXT, least=1)}
LISTED_BY_PERSON = {"picture_list": several(several(TEXT, least=2), least=1)}
QUALITY = by_name(by_name(ESTIMATE))

EFFICACY = record(
    {
        **ON_FILES,
        "seed": COUNT,
        "pictures": COUNT,
        "not_erased": COUNT,
        "lost": LOST,
        "quality": QUALITY,
        "fid": {"anyOf": [TEXT, by_name(NUMBER)]},  # or why it was not measured
        "recognizers": by_name(ATTACK_ROW),
    },
    LISTED,
)

OWNERS = record(
    {
        **ON_FILES,
        "people": COUNT,
        "other_photos": COUNT,
        "lost": LOST,
        "recognizers": by_name(OWNER_ROW),
    },
    LISTED_BY_PERSON,
)

ROBUSTNESS = record(
    {
        **ON_FILES,
        "seed": COUNT,
        "pictures": COUNT,
        "operations": by_name(record({"lost": LOST, "recognizers": by_name(ATTACK_ROW)})),
    },
    LISTED,
)

CALIBRATE = record(
    {
        "data": TEXT,
        "pictures": COUNT,
        "pairs": COUNT,
        "seed": COUNT,
        "recognizers": by_name(record({"sha256": SHA256, "threshold": by_name(NUMBER)})),
    },
    LISTED,
)

TARGET_CHOICE = record(
    {
        "calibration": CALIBRATION,
        "data": TEXT,
        "seed": COUNT,
        "strangers": COUNT,
        "no_face_found": COUNT,
        # A rate for each recogniser, and ``mean``.
        "targets": by_name(record({"mean": NUMBER}) | {"additionalProperties": RATE}),
    },
    LISTED,
)

ABLATIONS = record(
    {
        "base": TEXT,
        "preset": TEXT,
        "training_faces": COUNT,
        "test_people": COUNT,
        "reference": by_name(TEXT),
        "variants": by_name(
            record(
                {
                    "evaluation": record(
                        {
                            "recognizers": by_name(
                                record({"role": ROLE, "asr": RATE, "esr": RATE, "dodging": RATE})
                            ),
                            "quality": QUALITY,
                        }
                    ),
                }
            )
        ),
    }
)

# As ``EFFICACY``, on recognisers that ``harden`` made, and what it wrote of each.
HARDENED: Schema = {"allOf": [EFFICACY, record({"hardening": by_name({"type": "object"})})]}

# What nobody can erase has no rates of erasure; what could not be built has a reason and nothing else.
PEER_ROW = record(
    {
        "role": ROLE,
        "asr": RATE,
        "dodging": RATE,
        "esr": nullable(RATE),
        "owner_accepted_restored": nullable(RATE),
    }
)
PEERS = record(
    {
        "bundle": BUNDLE,
        "target": TEXT,
        "jpeg_quality": COUNT,
        "calibration": CALIBRATION,
        "data": TEXT,
        "seed": COUNT,
        "pictures": COUNT,
        "suspicions": SUSPICIONS,
        "peers": by_name(
            record({"paper": TEXT, "differs": TEXT})
            | {
                "if": {"required": ["reason"]},
                "then": {"properties": {"reason": TEXT, "recognizers": False}},
                "else": record(
                    {
                        "recognizers": by_name(PEER_ROW),
                        "quality": by_name(ESTIMATE),
                        "network": record(
                            {
                                "seconds_a_face": NUMBER,
                                "mean_change_levels": NUMBER,
                                "max_change_levels": COUNT,
                            }
                        ),
                        "no_face_found": COUNT,
                        "lost": COUNT,
                        "plausibility": PLAUSIBILITY,
                        "suspicions": SUSPICIONS,
                    }
                ),
            }
        ),
    }
)

# What each eraser brings back; ``erased`` is by other photos, as in ``OWNERS``.
ERASED_ROW = record(
    {
        "role": ROLE,
        "esr": RATE,
        "owner_accepted": RATE,
        "by_other_photos": record({"clean": FOUND, "erased": FOUND}),
    }
)
ERASER = record(
    {
        **ON_FILES,
        "people": COUNT,
        "other_photos": COUNT,
        "faces": TEXT,
        "training": {"type": "object"},
        "erasers": by_name(
            record({"lost": COUNT, "quality": by_name(ESTIMATE), "recognizers": by_name(ERASED_ROW)})
        ),
    },
    LISTED_BY_PERSON,
)
