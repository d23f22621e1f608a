"""The body of each kind of result, by the name in its field ``benchmark``."""

from __future__ import annotations

from .parts import (
    BUNDLE,
    COUNT,
    ESTIMATE,
    NUMBER,
    OLD_BUNDLE,
    RATE,
    SHA256,
    SPREAD,
    TEXT,
    TIME_MS,
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
}
# The names of the pictures in the order they were taken; results of before this field have none.
LISTED = {"picture_list": several(TEXT, least=1)}
QUALITY = by_name(by_name(ESTIMATE))

EFFICACY = record(
    {
        **ON_FILES,
        "seed": COUNT,
        "pictures": COUNT,
        "not_erased": COUNT,
        "lost": LOST,
        "quality": QUALITY,
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
    {"picture_list": several(several(TEXT, least=2), least=1)},
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
                    "seconds": nullable(NUMBER),
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
        "peers": by_name(
            record({"paper": TEXT, "differs": TEXT})
            | {
                "if": {"required": ["reason"]},
                "then": {"properties": {"reason": TEXT, "recognizers": False}},
                "else": record(
                    {
                        "recognizers": by_name(PEER_ROW),
                        "quality": by_name(ESTIMATE),
                        "no_face_found": COUNT,
                        "lost": COUNT,
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
    }
)

PROGRAM_ROW = record(
    {
        "program": TEXT,
        "batch": {"type": "integer", "minimum": 1},
        "ms_per_face": TIME_MS,
        "quartiles_ms": several(TIME_MS, least=2),
        "p95_ms": TIME_MS,
        "least_ms": TIME_MS,
        "calls": COUNT,
        "max_levels": NUMBER,
        "mean_levels": NUMBER,
    },
    {"p99_ms": TIME_MS, "speedup": NUMBER, "times_floor": NUMBER},
)

LATENCY = record(
    {
        "run": record({"name": TEXT, "steps": nullable(COUNT)}),
        "settings": record({"rounds": COUNT, "calls": COUNT, "threads": COUNT, "device": TEXT}),
        "matrix_rate_flops": record({"fp32": NUMBER, "bf16": NUMBER}),
        "networks": by_name(
            record(
                {
                    "flops_per_face": COUNT,
                    "floor_ms": TIME_MS,
                    "missing": {"type": "object"},
                    "programs": several(PROGRAM_ROW, least=1),
                }
            )
        ),
    }
)

# A verb on a picture with a backend, all in one process: times in milliseconds.
STAGED_ROW = record(
    {
        "backend": TEXT,
        "verb": {"enum": ["protect", "erase"]},
        "picture": TEXT,
        "total_ms": SPREAD,
        "stages_ms": record(
            dict.fromkeys(("decode", "detect", "align", "network", "paste", "encode", "rest"), SPREAD)
        ),
    }
)
# The same in a process of its own: from its start to the written photo, and the most memory it had.
COLD_ROW = record(
    {
        "backend": TEXT,
        "verb": {"enum": ["protect", "erase"]},
        "picture": TEXT,
        "first_photo_ms": SPREAD,
        "peak_mib": nullable(NUMBER),
    }
)
PHOTO = record(
    {
        "bundle": BUNDLE,
        "settings": record({"rounds": COUNT, "threads": COUNT}),
        "missing": {"type": "object"},
        "pictures": by_name(record({"width_px": COUNT, "height_px": COUNT, "faces": COUNT})),
        "photos": several(STAGED_ROW, least=1),
        "cold": several(COLD_ROW),
        "matrix_rate_flops": record({"fp32": NUMBER, "bf16": NUMBER}),
        "networks": by_name(
            record(
                {
                    "flops_per_face": COUNT,
                    "floor_ms": TIME_MS,
                    "programs": several(PROGRAM_ROW, least=1),
                }
            )
        ),
    }
)

SERVING = record(
    {
        "bundle": {"anyOf": [BUNDLE, OLD_BUNDLE]},
        "settings": record({"threads": COUNT, "rounds": COUNT, "faces_per_request": COUNT}),
        "rows": several(
            record(
                {
                    "server": TEXT,
                    "backend": TEXT,
                    "concurrency": COUNT,
                    "faces_per_s": NUMBER,
                    "faces_per_s_range": several(NUMBER, least=2),
                    "client_ms": record(dict.fromkeys(("p50", "p90", "p95", "p99"), TIME_MS)),
                    "server_ms": {"type": "object"},
                    "mean_batch": NUMBER,
                    "rounds": COUNT,
                }
            ),
            least=1,
        ),
    }
) | {
    # The network without a server, one face at a time; or in more ways: by backend, way and batch.
    "anyOf": [
        record({"in_process_ms": by_name(TIME_MS)}),
        record({"network_ms_per_face": by_name(by_name(by_name(TIME_MS)))}),
    ]
}

# One face on its way through client, door, server and network, by path.
OVERHEAD = record(
    {
        "bundle": {"anyOf": [BUNDLE, OLD_BUNDLE]},
        "settings": record({"threads": COUNT, "requests": COUNT, "rounds": COUNT}),
        "rows": several(
            record(
                {
                    "backend": TEXT,
                    "path": TEXT,
                    "requests": COUNT,
                    "p50_ms": TIME_MS,
                    "p95_ms": TIME_MS,
                    "phases_ms": {"type": "object"},
                }
            ),
            least=1,
        ),
    }
)

SOAK = record(
    {
        "bundle": {"anyOf": [BUNDLE, OLD_BUNDLE]},
        "settings": record({"backend": TEXT, "minutes": NUMBER, "concurrency": COUNT}),
        "requests": COUNT,
        "errors": several(TEXT),
        "latency_ms": several(record({"minute": COUNT, "requests": COUNT, "p50": TIME_MS, "p99": TIME_MS})),
        "memory_mib": several(record({"s": NUMBER}), least=1),
        "growth_mib_per_hour": by_name(NUMBER),
    }
)

BODIES: dict[str, Schema] = {
    "calibrate": CALIBRATE,
    "target_choice": TARGET_CHOICE,
    "efficacy": EFFICACY,
    "owners": OWNERS,
    "robustness": ROBUSTNESS,
    "peers": PEERS,
    "hardened": HARDENED,
    "eraser": ERASER,
    "ablations": ABLATIONS,
    "latency": LATENCY,
    "photo": PHOTO,
    "serving": SERVING,
    "serving overhead": OVERHEAD,
    "soak": SOAK,
}
