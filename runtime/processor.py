"""The processor's name, for records of what was measured."""

from __future__ import annotations

import platform
from pathlib import Path


def processor_name() -> str:
    """As the system gives it, such as ``AMD EPYC``; else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
