"""Makes certificates: for the hop between the door and Triton, and for trying a server out.

Elliptic curve P-256. A CA's key signs and is thrown away by whoever needs no more certificates.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Use = Literal["server", "client"]

_USES = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}
# Clocks differ, and a certificate that is valid from tomorrow on is hard to explain.
_BEFORE = timedelta(hours=1)
# The keys die with the processes, and connections must be possible for as long as those live.
_EPHEMERAL_DAYS = 3650


@dataclass(frozen=True)
class Issued:
    """A certificate and its private key, both as PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class EphemeralTls:
    """Mutual TLS between two processes of one run, as PEM. No other certificate is accepted by either."""

    ca: bytes
    server: Issued
    client: Issued


class CertificateMaker:
    """A certificate authority that is as old as this object.

    Args:
        name: its common name.
        valid: how long its certificates are valid, from now on.
    """

    def __init__(self, name: str, valid: timedelta) -> None:
        self._valid = valid
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = _common_name(name)
        self._certificate = (
            self._builder(self._subject, self._key.public_key(), valid)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(ca=True), critical=True)
            .sign(self._key, SHA256())
        )

    @property
    def ca(self) -> Issued:
        """The authority's own certificate and key."""
        return Issued(self._certificate.public_bytes(Encoding.PEM), _key_pem(self._key))

    def issue(
        self, name: str, use: Use, hosts: Sequence[str] = (), *, valid: timedelta | None = None
    ) -> Issued:
        """A certificate for one use.

        Args:
            name: its common name.
            use: ``server`` or ``client``; it is refused in the other place.
            hosts: DNS names and IP addresses of a server.
            valid: how long from now on, None: as long as the CA's own; below 0, it has expired already.

        Raises:
            ValueError: a name cannot stand in a certificate.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            self._builder(_common_name(name), key.public_key(), self._valid if valid is None else valid)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([_USES[use]]), critical=False)
        )
        if hosts:
            names = x509.SubjectAlternativeName([_host(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self._key, SHA256())
        return Issued(certificate.public_bytes(Encoding.PEM), _key_pem(key))

    def _builder(
        self, subject: x509.Name, public: ec.EllipticCurvePublicKey, valid: timedelta
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, now + valid) - _BEFORE)
            .not_valid_after(now + valid)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )


def ephemeral_tls(host: str = "127.0.0.1") -> EphemeralTls:
    """Certificates that exist for this run only; the key that signed them is gone already."""
    maker = CertificateMaker("erasablemask, this run only", timedelta(days=_EPHEMERAL_DAYS))
    return EphemeralTls(
        ca=maker.ca.certificate,
        server=maker.issue("triton", "server", [host]),
        client=maker.issue("door", "client"),
    )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
