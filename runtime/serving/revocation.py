"""Which of the clients' certificates their CAs have revoked, from a file that may change while it is used."""

from __future__ import annotations

import logging
import re
import threading
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from ..errors import CertificateError
from .certificates import read_pem

logger = logging.getLogger(__name__)

_BLOCK = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)


class RevocationList:
    """The revocation lists of all CAs of the clients, in one file.

    When the file changes it is read again. A file that is then damaged, or out of date, or lacks a CA, serves
    nobody until it is mended: who was revoked is not known.

    Args:
        path: PEM, one list of each CA.
        client_ca: PEM, the CAs.

    Raises:
        CertificateError: the file cannot be read, a list is not one of the CAs' or is out of date, or a CA
            has none.
    """

    def __init__(self, path: Path, client_ca: bytes) -> None:
        self._path = path
        self._authorities = x509.load_pem_x509_certificates(client_ca)
        self._lock = threading.Lock()
        self._problem = ""
        self._stamp = self._find_stamp()
        self._load()
        if problem := self._overdue(datetime.now(UTC)):
            raise CertificateError(f"{problem}; get a new one from the CA")

    def refusal(self, issuer: str, serial: str, now: datetime) -> str:
        """Why a certificate is not served; empty if it is.

        Args:
            issuer: RFC 4514.
            serial: hex.
            now: with time zone.
        """
        with self._lock:
            self._refresh()
            if self._problem:
                return self._problem
            if problem := self._overdue(now):
                return problem
            if issuer not in self._next_updates:
                return "no list says whether the certificate's CA has revoked it"
            return "the certificate was revoked" if (issuer, serial) in self._revoked else ""

    def _refresh(self) -> None:
        try:
            if (stamp := self._find_stamp()) == self._stamp:
                return
            self._load()
        except CertificateError as error:
            if not self._problem:
                logger.error("nobody is served: %s", error)
            self._problem = "the list of revoked certificates cannot be used at the moment"
            return
        self._stamp, self._problem = stamp, ""
        logger.info("read the list of revoked certificates again: %d", len(self._revoked))

    def _find_stamp(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()
        except OSError as error:
            raise CertificateError(f"cannot read {self._path}: {error.strerror or error}") from error
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _load(self) -> None:
        revoked: set[tuple[str, str]] = set()
        next_updates: dict[str, datetime] = {}
        for block in _BLOCK.findall(read_pem(self._path)):
            found, until = self._checked(block)
            issuer = found.issuer.rfc4514_string()
            next_updates[issuer] = min(until, next_updates.get(issuer, until))
            revoked |= {(issuer, f"{entry.serial_number:x}") for entry in found}
        names = {authority.subject.rfc4514_string() for authority in self._authorities}
        if missing := sorted(names - next_updates.keys()):
            raise CertificateError(
                f"expected a revocation list of every client CA in {self._path}, found none of {missing[0]!r}"
            )
        self._revoked, self._next_updates = revoked, next_updates

    def _checked(self, pem: bytes) -> tuple[x509.CertificateRevocationList, datetime]:
        """One list, signed by one of the CAs, and until when it holds."""
        try:
            found = x509.load_pem_x509_crl(pem)
        except ValueError as error:
            raise CertificateError(f"expected revocation lists in {self._path}: {error}") from error
        issuer, until = found.issuer.rfc4514_string(), found.next_update_utc
        if not any(
            authority.subject == found.issuer and found.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
            for authority in self._authorities
        ):
            raise CertificateError(
                f"the revocation list of {issuer!r} in {self._path} is signed by none of the clients' CAs"
            )
        if until is None:
            raise CertificateError(
                f"the revocation list of {issuer!r} in {self._path} does not say how long it holds"
            )
        return found, until

    def _overdue(self, now: datetime) -> str:
        for issuer, until in self._next_updates.items():
            if now > until:
                return f"the list of certificates that {issuer!r} has revoked held until {until}"
        return ""
