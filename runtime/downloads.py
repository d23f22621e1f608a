"""A resumable download whose content is known beforehand by its SHA-256."""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from .errors import RecognizerError
from .manifest import sha256_of

Progress = Callable[[int, int | None], None]
"""Called with the bytes had so far and the whole size, ``None`` where the server does not say."""

TIMEOUT_S = 30.0
MAX_BYTES = 256 * 2**20
_CHUNK_BYTES = 2**16
_AGAIN = "run the same command again to go on from there"


def download(url: str, destination: Path, sha256: str, progress: Progress = lambda done, total: None) -> Path:
    """Downloads a file whose hash is known; goes on where an earlier, interrupted call stopped.

    What has arrived lies in ``<destination>.part``, its server's ETag in ``<destination>.part.etag``. The
    destination appears only once its hash is right. A part with a wrong hash is deleted.

    Raises:
        RecognizerError: the address is not HTTP, the server cannot be reached or refuses, the connection
            broke (what arrived is kept), the file is larger than 256 MiB, or its hash is another one.
    """
    if not url.startswith(("https://", "http://")):
        raise RecognizerError(f"expected an http or https address, found {url!r}")
    part = destination.with_name(destination.name + ".part")
    etag = destination.with_name(part.name + ".etag")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, part, etag, progress)
        found = sha256_of(part.read_bytes())
        if found == sha256:
            part.replace(destination)
        else:
            part.unlink()
        etag.unlink(missing_ok=True)
    except urllib.error.HTTPError as error:
        raise RecognizerError(f"{url}: the server answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise RecognizerError(f"cannot reach {url}: {error.reason}") from error
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise RecognizerError(f"{url}: the connection broke ({error!r}); {_AGAIN}") from error
    except OSError as error:
        raise RecognizerError(f"cannot store {destination}: {error.strerror or error}") from error
    if found != sha256:
        raise RecognizerError(
            f"{url} is not the expected file: expected SHA-256 {sha256}, found {found}; deleted"
        )
    return destination


def _fetch(url: str, part: Path, etag: Path, progress: Progress) -> None:
    """Brings ``part`` to its full size, by one request for what is missing."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "erasablemask"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if etag.exists():
            request.add_header("If-Range", etag.read_text(encoding="latin-1"))
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is missing, or the part is too long: the hash tells
        raise
    with response:
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            _check_range(url, response.headers.get("Content-Range", ""), have)
        else:
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        _remember(etag, response.headers.get("ETag", ""))
        with open(part, "ab" if have else "wb") as file:
            while chunk := response.read(_CHUNK_BYTES):
                file.write(chunk)
                have += len(chunk)
                if have > MAX_BYTES:
                    raise RecognizerError(f"{url} is larger than {MAX_BYTES} bytes, which no recogniser is")
                progress(have, total)
    if total is not None and have < total:
        raise RecognizerError(f"{url}: the connection broke at {have} of {total} bytes; {_AGAIN}")


def _check_range(url: str, content_range: str, have: int) -> None:
    """A server must send the bytes that were asked for."""
    match = re.match(r"bytes (\d+)-", content_range)
    if match is None or int(match[1]) != have:
        raise RecognizerError(f"{url}: asked for bytes from {have} on, the server sent {content_range!r}")


def _remember(etag: Path, value: str) -> None:
    """Keeps a strong ETag; a weak one must not be used with If-Range (RFC 9110, 13.1.5)."""
    if value and not value.startswith("W/"):
        etag.write_text(value, encoding="latin-1")
    else:
        etag.unlink(missing_ok=True)
