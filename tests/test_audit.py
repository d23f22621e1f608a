"""The authority's log: what it notices, and what it survives."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.cli import main
from runtime.errors import AuditError
from runtime.serving import audit_chain, audit_file
from runtime.serving.audit import AuditLog, Entry
from runtime.serving.audit_chain import Chain, check_chain
from runtime.serving.audit_file import begin_after, read_chain


def entry(**changes) -> Entry:
    fields = {
        "outcome": "restored",
        "client": "CN=clerk,O=Court",
        "certificate_sha256": "aa" * 32,
        "serial": "01",
        "model": "restore",
        "model_version": "1",
        "model_sha256": "bb" * 32,
        "faces": 2,
        "input_sha256": "cc" * 32,
        "output_sha256": "dd" * 32,
    }
    return Entry(**{**fields, **changes})


def check(data: bytes) -> Chain:
    return check_chain(data.splitlines(keepends=True))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["audit", *map(str, arguments)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


@pytest.fixture
def log(path: Path) -> Iterator[AuditLog]:
    with AuditLog(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A log of a first record and four requests."""
    path = tmp_path_factory.mktemp("audit") / "audit.log"
    with AuditLog(path) as opened:
        for faces in range(1, 5):
            opened.append(entry(faces=faces))
    return path.read_bytes()


def test_a_record_says_who_what_when_and_which(log: AuditLog) -> None:
    head = log.append(entry())
    record = json.loads(log.path.read_bytes().splitlines()[-1])
    assert (record["client"], record["faces"], record["outcome"]) == ("CN=clerk,O=Court", 2, "restored")
    assert record["time"].endswith("+00:00")
    assert (record["sequence"], record["hash"]) == (head.sequence, head.hash) == (1, log.head.hash)
    assert read_chain(log.path).head == head


def test_only_the_owner_may_read_it(log: AuditLog) -> None:
    assert log.path.stat().st_mode & 0o777 == 0o600


def test_it_goes_on_where_it_ended(path: Path) -> None:
    for _ in range(3):
        with AuditLog(path) as opened:
            opened.append(entry())
    assert read_chain(path).head.sequence == 3


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_every_changed_byte_is_noticed(five: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(five) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda value: value != five[position]))
    changed = five[:position] + bytes([other]) + five[position + 1 :]
    try:
        chain = check(changed)
    except AuditError:
        return
    assert chain.torn
    assert position == len(five) - 1


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_every_inserted_or_deleted_byte_is_noticed(five: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(five)))
    inserted = data.draw(st.binary(min_size=1, max_size=3))
    deleted = data.draw(st.integers(1, 3)) if position + 3 < len(five) else 1
    for changed in (
        five[:position] + inserted + five[position:],
        five[: min(position, len(five) - 1)] + five[min(position, len(five) - 1) + deleted :],
    ):
        try:
            chain = check(changed)
        except AuditError:
            continue
        assert chain.torn


@settings(max_examples=100, deadline=None)
@given(order=st.lists(st.integers(0, 4), min_size=1, max_size=7))
def test_records_deleted_swapped_or_repeated_are_noticed(five: bytes, order: list[int]) -> None:
    lines = five.splitlines(keepends=True)
    if order == list(range(len(order))):
        assert check(b"".join(lines[: len(order)])).head.sequence == len(order) - 1
        return
    with pytest.raises(AuditError, match=r"line 1: expected the first|line .*(deleted|begins a log)"):
        check(b"".join(lines[index] for index in order))


def test_a_record_edited_with_its_own_hash_made_anew_breaks_the_next_one(five: bytes) -> None:
    lines = five.splitlines(keepends=True)
    record = json.loads(lines[2]) | {"client": "CN=somebody else"}
    record["hash"] = audit_chain.hash_of(record)
    lines[2] = audit_chain.canonical(record) + b"\n"
    with pytest.raises(AuditError, match="line 4: record 3 does not follow the one in front of it"):
        check(b"".join(lines))


def test_the_same_content_written_otherwise_is_noticed(five: bytes) -> None:
    lines = five.splitlines(keepends=True)
    for line in (lines[2].replace(b",", b", ", 1), lines[2].replace(b"clerk", rb"cl\u0065rk")):
        assert json.loads(line) == json.loads(lines[2])
        with pytest.raises(AuditError, match="line 3: this is no record in canonical JSON"):
            check(b"".join([*lines[:2], line, *lines[3:]]))


def test_a_cut_tail_shows_only_against_a_noted_head(path: Path) -> None:
    with AuditLog(path) as opened:
        opened.append(entry())
        noted = opened.append(entry()).hash
        opened.append(entry())
    assert run("verify", path, "--expect-head", noted).exit_code == 0
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    assert run("verify", path).exit_code == 0
    result = run("verify", path, "--expect-head", noted)
    assert (result.exit_code, "records are missing at the end" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    "client", ["CN=a\nb", 'CN="\\', "CN=\u0000\x1b[31m", "CN=J\u00fcrgen \u2028 \U0001f600", "CN=\ud800"]
)
def test_no_name_breaks_a_line(path: Path, client: str) -> None:
    with AuditLog(path) as opened:
        opened.append(entry(client=client))
        opened.append(entry())
    lines = path.read_bytes().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[1])["client"] == client
    shown = run("show", path)
    assert shown.exit_code == 0, shown.output
    assert len(shown.stdout.splitlines()) == 3
    assert shown.stdout.isascii()
    assert "\x1b" not in shown.stdout


def test_a_clock_that_goes_back_is_recorded_and_reported(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with AuditLog(path) as opened:
        monkeypatch.setattr(audit_file, "now", lambda: "2001-01-01T00:00:00.000000+00:00")
        opened.append(entry())
    assert "record 1 is dated before the one in front of it" in run("verify", path).stdout


@pytest.mark.parametrize("cut", [1, 2, 100, 300])
def test_a_torn_tail_is_kept_reported_and_sealed(path: Path, five: bytes, cut: int, caplog) -> None:
    torn = five[:-cut]
    path.write_bytes(torn)
    path.chmod(0o600)
    result = run("verify", path)
    assert (result.exit_code, "unfinished bytes after record 3" in result.stderr) == (1, True)
    with AuditLog(path) as opened:
        assert "unfinished bytes, from a crash or a full disk" in caplog.text
        opened.append(entry())
    assert path.read_bytes().startswith(torn + audit_chain.SEAL)
    result = run("verify", path)
    assert result.exit_code == 0, result.output
    assert "unfinished bytes are sealed off before record 4" in result.stdout
    assert "unfinished bytes in front of this" in run("show", path).stdout


def test_what_was_sealed_off_is_part_of_the_chain(path: Path, five: bytes) -> None:
    path.write_bytes(five[:-40])
    path.chmod(0o600)
    AuditLog(path).close()
    whole = path.read_bytes()
    begin = whole.index(audit_chain.SEAL)
    for changed in (
        whole[: begin - 5] + b"X" + whole[begin - 4 :],
        whole[: begin - 5] + whole[begin - 4 :],
        whole.replace(five.splitlines(keepends=True)[-1][:-40] + audit_chain.SEAL, b""),
    ):
        with pytest.raises(AuditError, match="does not explain the bytes in front of it"):
            check(changed)


def test_a_tear_while_sealing_is_sealed_too(path: Path, five: bytes) -> None:
    path.write_bytes(five[:-40])
    path.chmod(0o600)
    AuditLog(path).close()
    whole = path.read_bytes()
    for end in range(len(five) - 40, len(whole)):
        path.write_bytes(whole[:end])
        with AuditLog(path) as opened:
            opened.append(entry())
        chain = read_chain(path)
        assert (chain.head.sequence, chain.recovered) == (5, (4,)), end


class FullDisk:
    """Stands in for ``os.write``: takes ``room`` bytes, then raises."""

    def __init__(self, room: int, error: int = errno.ENOSPC) -> None:
        self.room, self.error, self.write = room, error, os.write

    def __call__(self, descriptor: int, data: bytes) -> int:
        if data and not self.room:
            raise OSError(self.error, os.strerror(self.error))
        taken = self.write(descriptor, data[: self.room])
        self.room -= taken
        return taken


@pytest.mark.parametrize("room", [0, 1, 50, 400, 800])
def test_with_the_disk_full_nothing_is_recorded_until_there_is_room(
    log: AuditLog, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = log.append(entry())
    line_bytes = len(log.path.read_bytes().splitlines(keepends=True)[-1])
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", FullDisk(min(room, line_bytes - 1)))
        for _ in range(3):
            with pytest.raises(
                AuditError, match=r"cannot write the log .*No space left .*nothing is restored"
            ):
                log.append(entry())
    assert log.head == before
    assert log.usable
    log.append(entry(client="CN=later"))
    chain = read_chain(log.path)
    assert (chain.torn, len(chain.recovered)) == (b"", 1 if room else 0)
    assert b"CN=later" in log.path.read_bytes()


def test_room_that_ends_anywhere_while_sealing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for room in range(0, 700, 7):
        path.unlink(missing_ok=True)
        with AuditLog(path) as opened:
            for attempt in (30, room):
                with monkeypatch.context() as patch:
                    patch.setattr(os, "write", FullDisk(attempt))
                    with pytest.raises(AuditError, match="No space left"):
                        opened.append(entry())
            opened.append(entry())
        chain = read_chain(path)
        assert chain.torn == b""
        assert chain.last["client"] == "CN=clerk,O=Court"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a tmpfs of 16 KiB")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", place], check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        (place / "ballast").write_bytes(bytes(8192))
        with AuditLog(place / "audit.log") as opened:
            with pytest.raises(AuditError, match="No space left on device"):  # noqa: PT012
                while True:
                    opened.append(entry())
            before = opened.head
            (place / "ballast").unlink()
            assert opened.append(entry()).sequence > before.sequence
        assert read_chain(place / "audit.log").torn == b""
    finally:
        subprocess.run(["umount", place], check=True)


def test_after_a_failed_sync_nothing_is_recorded_any_more(
    log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises(AuditError, match="the disk did not take a record"):
            log.append(entry())
    assert not log.usable
    with pytest.raises(AuditError, match="repair the disk"):
        log.append(entry())


def test_every_record_is_synced(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    for _ in range(3):
        log.append(entry())
    assert len(synced) == 3


def test_a_log_has_one_writer(log: AuditLog) -> None:
    with pytest.raises(AuditError, match="in use by another program"):
        AuditLog(log.path)
    code = "import sys\nfrom runtime.serving.audit import AuditLog\nAuditLog(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, log.path], capture_output=True, text=True, check=False)
    assert "in use by another program" in done.stderr


def test_threads_share_a_log(log: AuditLog) -> None:
    def work() -> None:
        for _ in range(20):
            log.append(entry())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_chain(log.path).head.sequence == 80


def test_killed_at_any_time_it_goes_on(path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom runtime.serving.audit import AuditLog\n"
        "from tests.test_audit import entry\n"
        "log = AuditLog(Path(sys.argv[1]))\n"
        "while True:\n    print(log.append(entry()).hash, flush=True)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    confirmed = [child.stdout.readline().strip() for _ in range(20)]
    child.kill()
    confirmed += [line.strip() for line in child.stdout if line.endswith("\n")]
    child.wait()
    AuditLog(path).close()
    arguments = [argument for head in confirmed for argument in ("--expect-head", head)]
    assert run("verify", path, *arguments).exit_code == 0


def moved(path: Path) -> None:
    path.rename(path.with_suffix(".old"))


def replaced(path: Path) -> None:
    path.rename(path.with_suffix(".old"))
    path.write_bytes(path.with_suffix(".old").read_bytes())


def lengthened(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def shortened(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (Path.unlink, "moved, replaced or deleted"),
        (moved, "moved, replaced or deleted"),
        (replaced, "moved, replaced or deleted"),
        (lengthened, "changed by another program"),
        (shortened, "changed by another program"),
    ],
)
def test_what_happens_to_the_file_while_open_is_noticed(
    log: AuditLog, tamper: Callable[[Path], None], message: str
) -> None:
    tamper(log.path)
    with pytest.raises(AuditError, match=message):
        log.append(entry())
    assert not log.usable


def test_a_broken_log_is_not_continued(path: Path, five: bytes) -> None:
    path.write_bytes(five.replace(b"clerk", b"judge", 1))
    path.chmod(0o600)
    with pytest.raises(AuditError, match=r"broken at line 2: record 1 was changed.*keep it as evidence"):
        AuditLog(path)
    assert b"judge" in path.read_bytes()


def test_a_log_open_to_others_is_refused(path: Path, five: bytes) -> None:
    path.write_bytes(five)
    path.chmod(0o644)
    with pytest.raises(AuditError, match="found mode 644; run: chmod 600"):
        AuditLog(path)


def test_what_is_no_file_is_refused(tmp_path: Path, path: Path) -> None:
    with pytest.raises(AuditError, match="Is a directory"):
        AuditLog(tmp_path)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AuditError, match="symbolic links"):
        AuditLog(path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(AuditError, match=r"expected that the log .* is a plain file"):
        AuditLog(tmp_path / "pipe")
    with pytest.raises(AuditError, match="No such file"):
        AuditLog(tmp_path / "no" / "audit.log")


def test_rotation_goes_on_with_the_chain(path: Path) -> None:
    new = path.with_name("audit-2.log")
    with AuditLog(path) as opened:
        opened.append(entry())
        noted = opened.head.hash
    result = run("rotate", path, new)
    assert result.exit_code == 0, result.output
    with AuditLog(new) as opened:
        assert opened.append(entry()).sequence == 4
    assert run("verify", path, new, "--expect-head", noted).exit_code == 0
    both = run("verify", path, new).stdout
    assert "not given" not in both
    alone = run("verify", new)
    assert alone.exit_code == 0
    assert f"{new}: continues record 2 of a log that was not given\n" in alone.stdout
    assert "goes on in" not in alone.stdout
    old = run("verify", path)
    assert old.exit_code == 0
    assert f'{path}: goes on in "{new.name}", which was not given\n' in old.stdout
    assert "continues record" not in old.stdout
    assert "expected a log that continues" in run("verify", new, path).stderr
    with pytest.raises(AuditError, match=r"closed by a rotation; name 'audit-2\.log'"):
        AuditLog(path)


def test_a_log_is_continued_once(path: Path) -> None:
    AuditLog(path).close()
    with AuditLog(path) as opened:
        opened.rotate("audit-2.log")
        with pytest.raises(AuditError, match="closed by a rotation"):
            opened.append(entry())
    result = run("rotate", path, path.with_name("audit-3.log"))
    assert (result.exit_code, "that it goes on in 'audit-2.log'" in result.stderr) == (1, True)
    assert run("rotate", path, path.with_name("audit-2.log")).exit_code == 0
    result = run("rotate", path, path.with_name("audit-2.log"))
    assert (result.exit_code, "never overwritten" in result.stderr) == (1, True)


def test_an_open_log_has_no_continuation(log: AuditLog) -> None:
    with pytest.raises(AuditError, match="found it open"):
        begin_after(log.path.with_name("next.log"), log.path)
    result = run("rotate", log.path, log.path.with_name("next.log"))
    assert (result.exit_code, "in use by another program" in result.stderr) == (1, True)


def test_head_and_show_in_json(log: AuditLog) -> None:
    head = log.append(entry())
    assert run("head", log.path).stdout == f"{head.hash} 1\n"
    assert json.loads(run("head", log.path, "--json").stdout) == {"hash": head.hash, "sequence": 1}
    assert run("show", log.path, "--json").stdout_bytes == log.path.read_bytes()


def test_a_missing_or_empty_log_is_an_error(tmp_path: Path) -> None:
    assert "cannot read the log" in run("verify", tmp_path / "none").stderr
    (tmp_path / "empty").write_bytes(b"")
    assert "the log is empty" in run("verify", tmp_path / "empty").stderr
