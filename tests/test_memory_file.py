"""Files in memory: who can read them, who can change them, and what is left of them."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.errors import ServingError
from runtime.serving.memory_file import MemoryFile, MemoryModels, forbid_core_dumps

DATA = os.urandom(3_000_000)


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_another_process_reads_it_through_a_link(tmp_path: Path) -> None:
    with MemoryFile(DATA, "test") as file:
        file.link(tmp_path / "model.onnx")
        code = "import hashlib, sys\nprint(hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest())"
        assert python(code, tmp_path / "model.onnx").stdout.strip() == file.sha256
        assert (tmp_path / "model.onnx").read_bytes() == DATA


def test_it_is_gone_when_closed(tmp_path: Path) -> None:
    file = MemoryFile(DATA, "test")
    file.link(tmp_path / "model.onnx")
    file.close()
    file.close()
    with pytest.raises(FileNotFoundError):
        (tmp_path / "model.onnx").read_bytes()


def test_nobody_can_change_it() -> None:
    with MemoryFile(DATA, "test") as file:
        for flags in (os.O_WRONLY, os.O_RDWR):
            try:  # root may open it for writing all the same; the seals hold for root, too
                descriptor = os.open(file.path, flags)
            except PermissionError:
                continue
            for change in (lambda: os.write(descriptor, b"x"), lambda: os.ftruncate(descriptor, 5)):  # noqa: B023
                with pytest.raises(PermissionError):
                    change()
            os.close(descriptor)
        assert file.path.read_bytes() == DATA


def test_nothing_is_left_after_a_kill(tmp_path: Path) -> None:
    link = tmp_path / "model.onnx"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom runtime.serving.memory_file import MemoryFile\n"
        "file = MemoryFile(b'secret', 'test')\nfile.link(Path(sys.argv[1]))\n"
        "print('ready', flush=True)\ntime.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, link], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    assert link.read_bytes() == b"secret"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not link.exists()
    assert link.is_symlink()


def test_a_system_without_such_files_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(ServingError, match="expected Linux with memfd_create"):
        MemoryFile(DATA, "test")


def test_no_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: memoryview) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ServingError, match="3000000 bytes in memory: No space left"):
        MemoryFile(DATA, "test")


def test_a_link_that_exists_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    with MemoryFile(DATA, "test") as file, pytest.raises(ServingError, match="File exists"):
        file.link(tmp_path / "model.onnx")


def test_a_crash_of_a_child_leaves_no_core(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys\nfrom runtime.serving.memory_file import forbid_core_dumps\n"
        "import resource\nforbid_core_dumps()\nforbid_core_dumps()\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import os; os.abort()'], cwd=sys.argv[1])\n"
        "status = os.waitpid(child.pid, 0)[1]\n"
        "print(os.WTERMSIG(status), os.WCOREDUMP(status), open('/proc/self/coredump_filter').read().strip())"
    )
    done = python(code, tmp_path)
    assert done.stdout == f"{int(signal.SIGABRT)} False 00000000\n", done.stderr
    assert not list(tmp_path.iterdir())


def test_core_dumps_that_cannot_be_forbidden_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    def refuse(kind: int, limits: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    with pytest.raises(ServingError, match="a crash would leave secrets behind"):
        forbid_core_dumps()


def test_versions_of_a_model_live_as_long_as_they_may_be_needed(tmp_path: Path) -> None:
    with MemoryModels() as models:
        for version in (1, 2, 3):
            folder = tmp_path / f"{version}.partial"
            folder.mkdir()
            models.write(folder / "model.onnx", b"%d" % version)
            folder.rename(tmp_path / str(version))
        assert not (tmp_path / "1" / "model.onnx").exists()
        assert [(tmp_path / name / "model.onnx").read_bytes() for name in "23"] == [b"2", b"3"]
        assert models.sha256_of("3") == hashlib.sha256(b"3").hexdigest()
        for name in ("1", "4", ""):
            with pytest.raises(ServingError, match=r"expected a version among \[2, 3\], found"):
                models.sha256_of(name)
        with pytest.raises(ServingError, match="File exists"):
            models.write(tmp_path / "3" / "model.onnx", b"other")
        assert (tmp_path / "3" / "model.onnx").read_bytes() == b"3"
        (tmp_path / "3" / "model.onnx").unlink()
        models.write(tmp_path / "3" / "model.onnx", b"again")
        assert models.sha256_of("3") == hashlib.sha256(b"again").hexdigest()
    assert not (tmp_path / "3" / "model.onnx").exists()
