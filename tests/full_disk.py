"""A disk that is really full: commands run on a small tmpfs, mounted where nobody else sees it.

``python -m tests.full_disk CASE...`` in a mount namespace of its own (``unshare --mount``). Each case is
JSON, ``{"kib": size, "module": ..., "command": [...]}``; ``{disk}`` in an argument is the disk. Temporary
files go to the same disk. Prints as JSON what came of each: exit code, output, the files on the disk.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from click.testing import CliRunner


def attempt(disk: Path, kib: int, module: str, command: list[str]) -> dict[str, object]:
    """One command on an empty disk of ``kib`` KiB, this process's own cleaning up included."""
    main = importlib.import_module(module).main
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", disk], check=True)
    tempfile.tempdir = str(disk)
    try:
        result = CliRunner().invoke(main, [part.format(disk=disk) for part in command])
        left = sorted(str(path.relative_to(disk)) for path in disk.rglob("*"))
    finally:
        subprocess.run(["umount", disk], check=True)
    crash = None if isinstance(result.exception, SystemExit) else result.exception
    return {"exit_code": result.exit_code, "output": result.output, "files": left, "crash": repr(crash)}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        json.dump([attempt(Path(folder), **json.loads(case)) for case in sys.argv[1:]], sys.stdout)
