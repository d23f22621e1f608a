"""Who the authority's clients are, and which of them are served."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from ..errors import CertificateError
from .revocation import RevocationList


@dataclass(frozen=True)
class ClientIdentity:
    """Who a client's certificate says it is.

    Attributes:
        subject: RFC 4514.
        issuer: the CA's subject, RFC 4514.
        sha256: hex, of the certificate in DER.
        serial: hex.
        not_before, not_after: when it is valid, with time zone.
    """

    subject: str
    issuer: str
    sha256: str
    serial: str
    not_before: datetime
    not_after: datetime


@functools.lru_cache(maxsize=256)
def identify(pem: bytes) -> ClientIdentity:
    """Who a certificate that TLS has accepted belongs to.

    Raises:
        CertificateError: it cannot be parsed.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        subject, issuer = certificate.subject.rfc4514_string(), certificate.issuer.rfc4514_string()
    except ValueError as error:
        raise CertificateError(f"the client's certificate cannot be read: {error}") from error
    return ClientIdentity(
        subject=subject,
        issuer=issuer,
        sha256=certificate.fingerprint(SHA256()).hex(),
        serial=f"{certificate.serial_number:x}",
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


@dataclass(frozen=True)
class ClientPolicy:
    """Which of the clients whose certificates TLS accepts are served.

    Attributes:
        subjects: RFC 4514 names that are served; None: every name that the CA has certified.
        revoked: certificates that are served no more; None: there is no such list.
    """

    subjects: frozenset[str] | None = None
    revoked: RevocationList | None = None

    def refusal(self, client: ClientIdentity, now: datetime) -> str:
        """Why a client is not served; empty if it is.

        TLS has checked the dates when the connection began; connections outlive certificates.
        """
        if not client.not_before <= now <= client.not_after:
            return f"the certificate is valid from {client.not_before} to {client.not_after}, not now"
        if self.subjects is not None and client.subject not in self.subjects:
            return "the certificate's subject is not among those that are served"
        return "" if self.revoked is None else self.revoked.refusal(client.issuer, client.serial, now)
