"""The authority's own certificate, its key and its clients' CAs, checked before anything starts.

A server that starts with a certificate which clients refuse, or trusts a file that holds no authority, is
worse than one that does not start; so all of it is looked at first.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from ..errors import CertificateError

_MAKE = "for a trial, make all of them with: erasablemask certificates FOLDER"
_WARN_BEFORE = timedelta(days=14)

Extension = TypeVar("Extension", bound=x509.ExtensionType)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerCertificates:
    """What ends TLS, as PEM: the server's certificate with its chain, its key, and the clients' CAs."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes


def load_server_certificates(certificate: Path, key: Path, client_ca: Path) -> ServerCertificates:
    """Reads and checks what the authority's server needs for mutual TLS.

    Args:
        certificate: PEM, the server's certificate first, then those that lead to its CA.
        key: PEM, the certificate's private key, not encrypted, open to its owner (and readable by the
            group) only.
        client_ca: PEM, every CA that may issue clients' certificates.

    Raises:
        CertificateError: a file is missing or unusable, the key is open to others or does not belong to the
            certificate, a certificate is not valid now, the server's names no host or is not for servers,
            or one of ``client_ca`` is no CA.
    """
    chain_pem, ca_pem = read_pem(certificate), read_pem(client_ca)
    server = _certificates(certificate, chain_pem)[0]
    _check_dates(certificate, server)
    _check_server(certificate, server)
    key_pem = _read_key(key)
    _check_pair(certificate, server, key, key_pem)
    for authority in _certificates(client_ca, ca_pem):
        _check_authority(client_ca, authority)
    return ServerCertificates(certificate=chain_pem, key=key_pem, client_ca=ca_pem)


class RenewedCertificates:
    """The server's certificate and key, which may be exchanged while it runs.

    Args:
        certificate, key, client_ca: see ``load_server_certificates``.

    Raises:
        CertificateError: as of ``load_server_certificates``.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path) -> None:
        self._files = certificate, key, client_ca
        self.current = load_server_certificates(*self._files)

    def renew(self) -> None:
        """Reads the files again; connections that begin from now on get what they hold.

        Raises:
            CertificateError: as of ``load_server_certificates``, or the clients' CAs are others, which
                clients that are connected were not checked against. The old ones go on being used.
        """
        found = load_server_certificates(*self._files)
        if found.client_ca != self.current.client_ca:
            raise CertificateError(
                f"expected the same CAs of clients in {self._files[2]}, found others; restart the server"
            )
        if found != self.current:
            self.current = found
            logger.info("connections now begin with the new certificate in %s", self._files[0])


def read_pem(path: Path) -> bytes:
    """A file's content.

    Raises:
        CertificateError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"cannot read {path}: {error.strerror or error}; {_MAKE}") from error


def _read_key(path: Path) -> bytes:
    data = read_pem(path)
    # A group may read it (Kubernetes mounts secrets so); more is not needed by anybody.
    if (mode := stat.S_IMODE(path.stat().st_mode)) & 0o037:
        raise CertificateError(
            f"expected that the key {path} is open to its owner only, found mode {mode:o}; "
            f"run: chmod 600 {path}"
        )
    return data


def _certificates(path: Path, pem: bytes) -> Sequence[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise CertificateError(f"expected certificates as PEM in {path}: {error}") from error


def _check_dates(path: Path, certificate: x509.Certificate) -> None:
    now, name = datetime.now(UTC), certificate.subject.rfc4514_string()
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begin:
        raise CertificateError(
            f"{name!r} in {path} is not valid before {begin}; it is {now:%Y-%m-%d %H:%M} UTC"
        )
    if now > end:
        raise CertificateError(f"{name!r} in {path} expired on {end}; have it issued again")
    if end - now < _WARN_BEFORE:
        logger.warning("%r in %s expires on %s", name, path, end)


def _check_server(path: Path, certificate: x509.Certificate) -> None:
    usages = _extension(certificate, x509.ExtendedKeyUsage)
    if usages is not None and ExtendedKeyUsageOID.SERVER_AUTH not in usages:
        raise CertificateError(f"expected a server's certificate in {path}, found one for other uses")
    if _extension(certificate, x509.SubjectAlternativeName) is None:
        raise CertificateError(
            f"the certificate in {path} names no host as subject alternative name, so no client would accept "
            "it; have it issued with the server's DNS name or IP address"
        )


def _check_pair(path: Path, certificate: x509.Certificate, key_path: Path, key_pem: bytes) -> None:
    try:
        public = load_pem_private_key(key_pem, password=None).public_key()
    except TypeError as error:
        raise CertificateError(
            f"the key {key_path} is encrypted; decrypt it into a file that only this user can read"
        ) from error
    except ValueError as error:
        raise CertificateError(f"expected a private key as PEM in {key_path}: {error}") from error
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if public.public_bytes(*form) != certificate.public_key().public_bytes(*form):
        raise CertificateError(f"the key {key_path} does not belong to the certificate {path}")


def _check_authority(path: Path, certificate: x509.Certificate) -> None:
    constraints = _extension(certificate, x509.BasicConstraints)
    usage = _extension(certificate, x509.KeyUsage)
    if constraints is None or not constraints.ca or (usage is not None and not usage.key_cert_sign):
        raise CertificateError(
            f"expected certificate authorities in {path}, found {certificate.subject.rfc4514_string()!r}, "
            "which may not issue certificates"
        )
    _check_dates(path, certificate)


def _extension(certificate: x509.Certificate, kind: type[Extension]) -> Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
