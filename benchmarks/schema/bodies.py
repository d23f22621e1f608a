"""The body of each kind of result, by the name in its field ``benchmark``."""

from __future__ import annotations

from .on_files import (
    ABLATIONS,
    CALIBRATE,
    EFFICACY,
    ERASER,
    HARDENED,
    OWNERS,
    PEERS,
    ROBUSTNESS,
    TARGET_CHOICE,
)
from .on_lfw import ANONYMISER, RECONSTRUCTION
from .parts import Schema
from .speed import LATENCY, LAYERS, OVERHEAD, PHOTO, SERVING, SOAK

BODIES: dict[str, Schema] = {
    "calibrate": CALIBRATE,
    "target_choice": TARGET_CHOICE,
    "efficacy": EFFICACY,
    "owners": OWNERS,
    "robustness": ROBUSTNESS,
    "peers": PEERS,
    "hardened": HARDENED,
    "eraser": ERASER,
    "anonymiser": ANONYMISER,
    "reconstruction": RECONSTRUCTION,
    "ablations": ABLATIONS,
    "latency": LATENCY,
    "latency layers": LAYERS,
    "photo": PHOTO,
    "serving": SERVING,
    "serving overhead": OVERHEAD,
    "soak": SOAK,
}
