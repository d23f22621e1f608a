"""Bodies of what is measured in time: networks, whole photos, servers."""

from __future__ import annotations

from .parts import (
    BUNDLE,
    COUNT,
    NUMBER,
    SPREAD,
    TEXT,
    TIME_MS,
    by_name,
    nullable,
    record,
    several,
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

# Where the time of a network goes: milliseconds a face by kind of layer, and the convolutions' rate.
LAYERS = record(
    {
        "run": record({"name": TEXT, "steps": nullable(COUNT)}),
        "settings": record({"batch": COUNT, "calls": COUNT, "threads": COUNT}),
        "matrix_rate_flops": record({"bf16": NUMBER}),
        "networks": by_name(
            record(
                {
                    "flops_per_face": COUNT,
                    "programs": by_name(
                        record({"ms_per_face": by_name(TIME_MS), "convolution_flops": NUMBER})
                    ),
                }
            )
        ),
    }
)

VERB = {"enum": ["protect", "erase", "anonymise"]}

# A verb on a picture with a backend, all in one process: times in milliseconds.
STAGED_ROW = record(
    {
        "backend": TEXT,
        "verb": VERB,
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
        "verb": VERB,
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
        "bundle": BUNDLE,
        "settings": record(
            {
                "threads": COUNT,
                "rounds": COUNT,
                "faces_per_request": COUNT,
                "compare": {"enum": ["peers", "knobs", "split"]},
            }
        ),
        # The network without a server, by backend, way and batch: milliseconds a face.
        "network_ms_per_face": by_name(by_name(by_name(TIME_MS))),
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
)

# One face on its way through client, door, server and network, by path.
OVERHEAD = record(
    {
        "bundle": BUNDLE,
        "settings": record({"threads": COUNT, "requests": COUNT, "rounds": COUNT}),
        "rows": several(
            record(
                {
                    "backend": TEXT,
                    "path": TEXT,
                    "requests": COUNT,
                    "p50_ms": TIME_MS,
                    "p95_ms": TIME_MS,
                },
                {"phases_ms": {"type": "object"}},  # of paths through a server
            ),
            least=1,
        ),
    }
)

SOAK = record(
    {
        "bundle": BUNDLE,
        "settings": record(
            {"backend": TEXT, "minutes": NUMBER, "concurrency": COUNT, "growth_limit_mib": NUMBER}
        ),
        "requests": COUNT,
        "errors": several(TEXT),
        "latency_ms": several(record({"minute": COUNT, "requests": COUNT, "p50": TIME_MS, "p99": TIME_MS})),
        "memory_mib": several(record({"s": NUMBER}), least=1),
        "growth_mib": by_name(NUMBER),
        "growth_mib_per_hour": by_name(NUMBER),
    }
)
