"""The virtual environment that holds the wheel's Triton server and what runs networks in it.

It is one of its own because the server's Python stubs return empty outputs with NumPy 2. It is made when
asked for, never on the way.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..errors import ServingError

WHEEL = "nvidia-pytriton"
WHEEL_VERSION = "0.7.0"
# The release of NVIDIA's container that holds the same Triton as the wheel, 2.51.0.
CONTAINER = "nvcr.io/nvidia/tritonserver:24.10-py3"
NUMPY = "numpy>=1.26,<2"
STAMP = "serve-env.json"
# The interpreters that the wheel has stubs for.
PYTHONS = ("3.11", "3.12", "3.13")

_PACKAGE_PARENT = Path(__file__).resolve().parents[2]

logger = logging.getLogger(__name__)


def site_packages(folder: Path) -> Path:
    """Where the environment's packages lie; it runs the same Python as this program."""
    return folder / "lib" / f"python{python_version()}" / "site-packages"


def server_folder(folder: Path) -> Path:
    """Where the wheel keeps Triton."""
    return site_packages(folder) / "pytriton" / "tritonserver"


def stub_of(folder: Path) -> Path:
    """The program that runs a Python-based backend, built for this version of Python."""
    return server_folder(folder) / "python_backend_stubs" / python_version() / "triton_python_backend_stub"


def library_path(folder: Path) -> str:
    """Where Triton and its stub find their libraries: libpython lies with this interpreter."""
    return os.pathsep.join(
        [str(site_packages(folder) / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR"))]
    )


def python_version() -> str:
    """Of this program, such as ``3.11``."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def wanted() -> dict[str, Any]:
    """What an environment for this program must hold: the same libraries, so that results have equal bits.

    Raises:
        ServingError: ONNX Runtime is not installed here.
    """
    runtimes = {}
    for package in ("onnxruntime", "openvino"):
        try:
            runtimes[package] = version(package)
        except PackageNotFoundError:
            continue
    if "onnxruntime" not in runtimes:
        raise ServingError(
            "the server runs networks in the version of ONNX Runtime that is installed here, found none; "
            "run: pip install onnxruntime"
        )
    return {
        "python": platform.python_version(),
        "wheel": f"{WHEEL}=={WHEEL_VERSION}",
        "packages": [NUMPY, *(f"{package}=={found}" for package, found in runtimes.items())],
        "runtime": str(_PACKAGE_PARENT),
    }


def what_is_wrong(folder: Path) -> str | None:
    """Why an environment cannot be used, None if it can.

    Raises:
        ServingError: see ``wanted``.
    """
    try:
        found = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "there is none, or it was not finished"
    except (OSError, ValueError) as error:
        return f"{folder / STAMP} cannot be read: {error}"
    for name, expected in wanted().items():
        if found.get(name) != expected:
            return f"expected {name} {expected}, found {found.get(name)}"
    return None


def make_environment(folder: Path) -> bool:
    """Makes the environment, or makes it again if it is stale. It downloads about 100 MB.

    Its stamp is written last: what was interrupted does not count as made.

    Returns:
        Whether it had to be made.

    Raises:
        ServingError: this Python has no stub in the wheel, the folder holds something else, a step failed,
            or the stub cannot run.
    """
    folder = folder.absolute()
    if python_version() not in PYTHONS or sys.platform != "linux" or platform.machine() != "x86_64":
        raise ServingError(
            f"{WHEEL} {WHEEL_VERSION} needs Linux on x86_64 and Python {' or '.join(PYTHONS)}, found "
            f"{sys.platform} on {platform.machine()} and Python {python_version()}; use {CONTAINER}"
        )
    if what_is_wrong(folder) is None:
        return False
    contents = wanted()
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
        raise ServingError(f"{folder} is no virtual environment and is kept; choose another folder")
    shutil.rmtree(folder, ignore_errors=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    _run([sys.executable, "-m", "venv", str(folder)])
    # Not its dependencies: they belong to PyTriton's Python interface, which is not used.
    _run([*pip, "--no-deps", contents["wheel"]])
    _run([*pip, *contents["packages"]])
    (site_packages(folder) / "erasablemask.pth").write_text(f"{_PACKAGE_PARENT}\n", encoding="utf-8")
    _check_stub(folder)
    (folder / STAMP).write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")
    return True


def _check_stub(folder: Path) -> None:
    """Starts the stub without the arguments that it needs: it must get as far as to say so."""
    variables = {**os.environ, "LD_LIBRARY_PATH": library_path(folder)}
    done = subprocess.run([stub_of(folder)], env=variables, capture_output=True, text=True, check=False)
    if "Expected" not in done.stdout + done.stderr:
        said = (done.stderr or done.stdout).strip()
        raise ServingError(
            f"the server's stub cannot run here: {said}; it needs this Python's shared library, "
            f"libpython{python_version()}.so: install it, or use a Python built with it"
        )


def _run(command: list[str]) -> None:
    logger.info("running %s", " ".join(command))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise ServingError(f"{' '.join(command)} failed with status {done.returncode}:\n{last}")
