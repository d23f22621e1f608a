"""Installs each extra of pyproject.toml alone in a fresh environment, and imports what it brings.

    python scripts/check_extras.py              every extra but gpu, one after the other
    python scripts/check_extras.py triton       only these
    python scripts/check_extras.py --here dev   imports only, in the running environment

The extra ``gpu`` is left out: TensorRT's libraries come from NVIDIA's own package index, and pycuda is
compiled against CUDA's headers and asks for a driver at import. Check it on a machine that has them, after
``pip uninstall onnxruntime``, with ``--here gpu``.
"""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_CHECKED = ("gpu",)

# Where the module is not the distribution's name with underscores.
MODULES = {
    "import-linter": ("importlinter",),
    "onnxruntime-gpu": ("onnxruntime",),
    "pycuda": ("pycuda.driver",),
    "scikit-image": ("skimage.metrics",),
    "tensorboard": ("torch.utils.tensorboard",),
    "tritonclient": ("tritonclient.grpc", "tritonclient.http"),
}


def requirements() -> dict[str, list[str]]:
    """Every extra's lines in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["optional-dependencies"]


def extras() -> dict[str, tuple[str, ...]]:
    """Names of the distributions of every extra."""
    return {extra: tuple(map(name_of, lines)) for extra, lines in requirements().items()}


def name_of(requirement: str) -> str:
    """``onnx>=1.16`` -> ``onnx``."""
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]


def applies(requirement: str) -> bool:
    """Whether a requirement's marker, if it has one, holds on this machine."""
    _, _, marker = requirement.partition(";")
    if not marker:
        return True
    from packaging.markers import Marker  # comes with pytest, so wherever the extra dev is

    return Marker(marker).evaluate()


def modules_of(extra: str) -> tuple[str, ...]:
    """Modules that an extra makes importable on this machine."""
    names = map(name_of, filter(applies, requirements()[extra]))
    modules = (MODULES.get(name, (name.replace("-", "_"),)) for name in names)
    return tuple(module for several in modules for module in several)


def check_fresh(extra: str) -> None:
    """Installs ``.[extra]`` in a new environment, and imports its modules and the package there."""
    start_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"extra-{extra}-") as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"{ROOT}[{extra}]"], check=True)
        subprocess.run([python, "-c", "import runtime.cli"], check=True, cwd=folder)
        subprocess.run([python, __file__, "--here", extra], check=True, cwd=folder)
    sys.stderr.write(f"{extra}: installed and imported in {time.monotonic() - start_s:.0f} s\n")


def main() -> None:
    """Parses the command line; exits with the first failure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help="default: every extra but gpu")
    parser.add_argument("--here", action="store_true", help="import only, in the running environment")
    arguments = parser.parse_args()
    chosen = arguments.extras or [extra for extra in extras() if extra not in NOT_CHECKED]
    if unknown := sorted(set(chosen) - set(extras())):
        parser.error(f"pyproject.toml has no extra {', '.join(unknown)}; it has: {', '.join(extras())}")
    for extra in chosen:
        if not arguments.here:
            check_fresh(extra)
            continue
        for module in modules_of(extra):
            importlib.import_module(module)


if __name__ == "__main__":
    main()
