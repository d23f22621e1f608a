"""Revoked certificates: refused at the next request, and nobody is served while the list is of no use."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from runtime.errors import CertificateError
from runtime.serving.certificate_maker import CertificateMaker, Issued
from runtime.serving.clients import ClientPolicy, identify
from runtime.serving.revocation import RevocationList
from tests.doors import CLERK, MAKER, connect, infer, open_door, records, refused
from tests.revocations import DAY, revocation_list

JUDGE = MAKER.issue("judge", "client")


def revocations(
    *revoked: Issued,
    maker: CertificateMaker = MAKER,
    named: CertificateMaker | None = None,
    **when: timedelta,
) -> bytes:
    """A list as PEM, signed by ``maker`` in the name of ``named``."""
    return revocation_list(maker.ca, *revoked, named=named and named.ca, **when)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "revoked.pem"


def refusal(found: RevocationList, pair: Issued, after: timedelta = timedelta(0)) -> str:
    client = identify(pair.certificate)
    return found.refusal(client.issuer, client.serial, datetime.now(UTC) + after)


def replace(path: Path, data: bytes) -> None:
    """As tools do it: whole or not at all."""
    path.with_suffix(".new").write_bytes(data)
    os.replace(path.with_suffix(".new"), path)


def test_a_revoked_client_is_refused_at_the_next_request(path: Path, tmp_path: Path) -> None:
    path.write_bytes(revocations())
    policy = ClientPolicy(revoked=RevocationList(path, MAKER.ca.certificate))
    with (
        open_door(tmp_path / "audit.log", policy=policy) as (door, _, _),
        connect(door.port, CLERK) as clerk,
        connect(door.port, JUDGE) as judge,
    ):
        infer(clerk)
        replace(path, revocations(CLERK))
        error = refused(lambda: infer(clerk))
        assert (error.code(), error.details()) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "the certificate was revoked",
        )
        infer(judge)
    assert [(record["client"], record["outcome"]) for record in records(tmp_path / "audit.log")] == [
        ("CN=clerk", "restored"),
        ("CN=clerk", "refused"),
        ("CN=judge", "restored"),
    ]


def test_while_the_list_is_of_no_use_nobody_is_served(path: Path, caplog) -> None:
    path.write_bytes(revocations(CLERK))
    found = RevocationList(path, MAKER.ca.certificate)
    for damage in (b"", b"junk", revocations(maker=CertificateMaker("test CA", DAY))):
        replace(path, damage)
        assert refusal(found, JUDGE) == "the list of revoked certificates cannot be used at the moment"
    path.unlink()
    assert refusal(found, JUDGE)
    assert "nobody is served" in caplog.text
    replace(path, revocations())
    assert refusal(found, JUDGE) == refusal(found, CLERK) == ""


def test_a_list_holds_as_long_as_it_says(path: Path) -> None:
    path.write_bytes(revocations())
    found = RevocationList(path, MAKER.ca.certificate)
    assert refusal(found, CLERK) == ""
    assert "has revoked held until" in refusal(found, CLERK, 2 * DAY)
    path.write_bytes(revocations(valid=-DAY))
    with pytest.raises(CertificateError, match=r"held until .*; get a new one from the CA"):
        RevocationList(path, MAKER.ca.certificate)


def test_every_ca_needs_a_list(path: Path) -> None:
    other = CertificateMaker("other CA", DAY)
    both = MAKER.ca.certificate + other.ca.certificate
    path.write_bytes(revocations())
    with pytest.raises(CertificateError, match="found none of 'CN=other CA'"):
        RevocationList(path, both)
    clerk = other.issue("clerk", "client")
    path.write_bytes(revocations() + revocations(clerk, maker=other))
    found = RevocationList(path, both)
    assert (refusal(found, CLERK), refusal(found, clerk)) == ("", "the certificate was revoked")
    stranger = CertificateMaker("third CA", DAY).issue("clerk", "client")
    assert "no list says" in refusal(found, stranger)


def test_a_list_of_somebody_else_is_refused(path: Path) -> None:
    stranger = CertificateMaker("x", DAY)
    for data in (revocations(maker=stranger), revocations(maker=stranger, named=MAKER)):
        path.write_bytes(data)
        with pytest.raises(CertificateError, match="is signed by none of the clients' CAs"):
            RevocationList(path, MAKER.ca.certificate)
    path.unlink()
    with pytest.raises(CertificateError, match="cannot read"):
        RevocationList(path, MAKER.ca.certificate)
