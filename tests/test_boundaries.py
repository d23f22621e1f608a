"""Who may import whom, and what must not be imported before it is needed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BLOCK_TORCH = """
import sys
from importlib.abc import MetaPathFinder

class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torchvision", "facenet_pytorch", "training", "export"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
"""


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_runtime_imports_with_torch_blocked() -> None:
    result = run_python(
        BLOCK_TORCH + "import runtime\nfor name in runtime.__all__: getattr(runtime, name)\nprint('fine')"
    )
    assert (result.returncode, result.stdout) == (0, "fine\n"), result.stderr


def test_every_command_shows_its_help_with_torch_blocked() -> None:
    code = (
        BLOCK_TORCH
        + """
from click.testing import CliRunner
from runtime.cli import COMMANDS, main
for name in COMMANDS:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, (name, result.output, result.exception)
"""
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def test_the_module_runs_with_torch_blocked() -> None:
    code = BLOCK_TORCH + (
        "import runpy\nsys.argv = ['erasablemask', '--help']\n"
        "runpy.run_module('runtime.cli', run_name='__main__')"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert "protect" in result.stdout


@pytest.mark.parametrize(
    "module", ["runtime", "runtime.cli", "runtime.errors", "runtime.manifest", "runtime.engine_sidecar"]
)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    result = run_python(
        f"import sys, {module}\n"
        "heavy = {'numpy', 'cv2', 'PIL', 'onnxruntime', 'cryptography', 'rich', 'torch'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert result.stdout == "[]\n", result.stderr


def test_unknown_names_of_the_package_are_attribute_errors() -> None:
    import runtime

    with pytest.raises(AttributeError, match="module 'runtime' has no attribute 'nothing'"):
        runtime.nothing  # noqa: B018
    assert set(runtime.__all__) <= set(dir(runtime))


def test_the_table_of_imports_holds() -> None:
    program = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    assert program, "lint-imports is not installed; run: pip install 'erasablemask[dev]'"
    result = subprocess.run([program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
