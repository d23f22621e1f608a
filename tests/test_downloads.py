"""``recognizers pull`` against a local server that knows ranges, breaks connections and damages data."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import downloads, recognizers
from runtime.downloads import download
from runtime.errors import RecognizerError
from runtime.manifest import sha256_of

CONTENT = bytes(range(256)) * 1000
SHA256 = sha256_of(CONTENT)


class Server(http.server.ThreadingHTTPServer):
    """Serves ``content``; ``break_after`` cuts answers short, ``ranges`` says whether Range is honoured."""

    content = CONTENT
    etag = '"one"'
    break_after: int | None = None
    ranges = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str | None, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/sface.onnx"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
        server.seen.append((wanted, condition))
        start = 0
        if self.path != "/sface.onnx":
            self.send_error(404)
            return
        if wanted and server.ranges and condition in (None, server.etag):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header(
                "Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}"
            )
        else:
            self.send_response(200)
        body = server.content[start:]
        self.send_header("Content-Length", str(len(body)))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        self.wfile.write(body[: server.break_after])

    def log_message(self, format: str, *args: object) -> None:
        """Keeps pytest's output clean."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_whole_file_with_progress(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = download(
        server.url, tmp_path / "new" / "f", SHA256, lambda done, total: seen.append((done, total))
    )
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["f"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert server.seen == [(None, None)]


def test_interruption_is_resumed_with_the_missing_bytes_only(server: Server, tmp_path: Path) -> None:
    server.break_after = 100_000
    with pytest.raises(RecognizerError, match="broke at 100000 of 256000 bytes; run the same command again"):
        download(server.url, tmp_path / "f", SHA256)
    assert names(tmp_path) == ["f.part", "f.part.etag"]
    server.break_after = None
    assert download(server.url, tmp_path / "f", SHA256).read_bytes() == CONTENT
    assert server.seen[1] == ("bytes=100000-", '"one"')
    assert names(tmp_path) == ["f"]


def test_file_that_changed_on_the_server_starts_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(b"of another version")
    (tmp_path / "f.part.etag").write_text('"zero"')
    assert download(server.url, tmp_path / "f", SHA256).read_bytes() == CONTENT
    assert server.seen == [("bytes=18-", '"zero"')]


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_a_strong_etag_the_hash_alone_decides(server: Server, tmp_path: Path, etag: str) -> None:
    server.etag = etag
    server.break_after = 1000
    with pytest.raises(RecognizerError, match="broke"):
        download(server.url, tmp_path / "f", SHA256)
    assert names(tmp_path) == ["f.part"]
    server.break_after = None
    assert download(server.url, tmp_path / "f", SHA256).read_bytes() == CONTENT
    assert server.seen[1] == ("bytes=1000-", None)


def test_server_without_ranges_starts_anew(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "f.part").write_bytes(CONTENT[:1000])
    assert download(server.url, tmp_path / "f", SHA256).read_bytes() == CONTENT


def test_complete_part_needs_no_bytes(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(CONTENT)
    assert download(server.url, tmp_path / "f", SHA256).read_bytes() == CONTENT
    assert server.seen == [(f"bytes={len(CONTENT)}-", None)]


def test_damaged_data_is_deleted_and_the_next_call_works(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(RecognizerError, match=f"expected SHA-256 {SHA256}, found .*; deleted"):
        download(server.url, tmp_path / "f", SHA256)
    assert names(tmp_path) == []
    server.content = CONTENT
    assert download(server.url, tmp_path / "f", SHA256).read_bytes() == CONTENT


def test_damaged_part_is_deleted(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(b"?" + CONTENT[1:1000])
    with pytest.raises(RecognizerError, match="not the expected file"):
        download(server.url, tmp_path / "f", SHA256)
    assert names(tmp_path) == []


def test_wrong_range_is_refused(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f.part").write_bytes(CONTENT[:1000])
    send_header = Handler.send_header

    def lie(self: Handler, keyword: str, value: str) -> None:
        send_header(self, keyword, "bytes 7-9/10" if keyword == "Content-Range" else value)

    monkeypatch.setattr(Handler, "send_header", lie)
    with pytest.raises(RecognizerError, match="asked for bytes from 1000 on, the server sent 'bytes 7-9/10'"):
        download(server.url, tmp_path / "f", SHA256)


def test_endless_file_is_stopped(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "MAX_BYTES", 2**17)
    with pytest.raises(RecognizerError, match="larger than 131072 bytes"):
        download(server.url, tmp_path / "f", SHA256)


def test_refusals_are_said_plainly(server: Server, tmp_path: Path) -> None:
    with pytest.raises(RecognizerError, match="the server answered 404"):
        download(server.url + "x", tmp_path / "f", SHA256)
    with pytest.raises(RecognizerError, match="expected an http or https address"):
        download("file:///etc/passwd", tmp_path / "f", SHA256)
    server.shutdown()
    server.server_close()
    with pytest.raises(RecognizerError, match="cannot reach"):
        download(server.url, tmp_path / "f", SHA256)
    assert names(tmp_path) == []


def test_pull_stores_into_the_cache_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(recognizers.HOME_VARIABLE, str(tmp_path))
    card = recognizers.RecognizerCard(
        name="test", sha256=SHA256, filename="sface.onnx", thresholds={0.01: 0.3}
    )
    monkeypatch.setattr(recognizers, "SFACE_FLOAT32", card)
    for _ in range(2):
        assert recognizers.pull(server.url) == tmp_path / "sface.onnx"
    assert len(server.seen) == 1
    assert recognizers.pulled_file() == tmp_path / "sface.onnx"
