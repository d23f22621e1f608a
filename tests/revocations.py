"""Lists of revoked certificates for tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from runtime.serving.certificate_maker import Issued

DAY = timedelta(days=1)


def revocation_list(
    ca: Issued, *revoked: Issued, valid: timedelta = DAY, named: Issued | None = None
) -> bytes:
    """A list as PEM, signed by ``ca`` in the name of ``named``."""
    now = datetime.now(UTC)
    issuer = x509.load_pem_x509_certificate((named or ca).certificate).subject
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer)
        .last_update(min(now, now + valid) - DAY)
        .next_update(now + valid)
    )
    for pair in revoked:
        serial = x509.load_pem_x509_certificate(pair.certificate).serial_number
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(load_pem_private_key(ca.key, None), SHA256()).public_bytes(Encoding.PEM)
