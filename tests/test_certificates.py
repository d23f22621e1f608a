"""What is checked of certificates before an authority's server starts, and who its clients are."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from runtime.cli import main
from runtime.errors import CertificateError
from runtime.serving.certificate_maker import CertificateMaker, Issued, ephemeral_tls
from runtime.serving.certificates import load_server_certificates
from runtime.serving.clients import ClientPolicy, identify

MONTH = timedelta(days=30)


@pytest.fixture(scope="module")
def maker() -> CertificateMaker:
    return CertificateMaker("CA", MONTH)


@pytest.fixture(scope="module")
def server(maker: CertificateMaker) -> Issued:
    return maker.issue("localhost", "server", ["localhost", "127.0.0.1"])


class Files:
    """The three files, each to be replaced by a test."""

    def __init__(self, folder: Path, server: Issued, ca: Issued) -> None:
        self.certificate, self.key, self.ca = (folder / name for name in ("s.pem", "s.key", "ca.pem"))
        self.certificate.write_bytes(server.certificate)
        self.write_key(server.key)
        self.ca.write_bytes(ca.certificate)

    def write_key(self, data: bytes, mode: int = 0o600) -> None:
        self.key.write_bytes(data)
        self.key.chmod(mode)

    def load(self):
        return load_server_certificates(self.certificate, self.key, self.ca)


@pytest.fixture
def files(tmp_path: Path, maker: CertificateMaker, server: Issued) -> Files:
    return Files(tmp_path, server, maker.ca)


def test_good_files_are_taken_as_they_are(files: Files, server: Issued, maker: CertificateMaker) -> None:
    loaded = files.load()
    assert (loaded.certificate, loaded.key, loaded.client_ca) == (
        server.certificate,
        server.key,
        maker.ca.certificate,
    )
    assert "PRIVATE" not in repr(loaded)


def test_a_chain_of_certificates_is_taken(files: Files, server: Issued, maker: CertificateMaker) -> None:
    files.certificate.write_bytes(server.certificate + maker.ca.certificate)
    assert files.load().certificate.count(b"BEGIN") == 2


@pytest.mark.parametrize("name", ["certificate", "key", "ca"])
def test_a_missing_file_is_named(files: Files, name: str) -> None:
    getattr(files, name).unlink()
    with pytest.raises(CertificateError, match=r"cannot read .*No such file.*erasablemask certificates"):
        files.load()


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o660])
def test_a_key_open_to_others_is_refused(files: Files, server: Issued, mode: int) -> None:
    files.write_key(server.key, mode)
    with pytest.raises(CertificateError, match=f"found mode {mode:o}; run: chmod 600"):
        files.load()


def test_a_key_that_a_group_may_read_is_taken(files: Files, server: Issued) -> None:
    files.write_key(server.key, 0o640)
    assert files.load().key == server.key


def test_another_certificates_key_is_refused(files: Files, maker: CertificateMaker) -> None:
    files.write_key(maker.issue("other", "server").key)
    with pytest.raises(CertificateError, match="does not belong to the certificate"):
        files.load()


def test_an_encrypted_key_is_refused(files: Files, server: Issued) -> None:
    key = load_pem_private_key(server.key, password=None)
    files.write_key(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password"))
    )
    with pytest.raises(CertificateError, match="is encrypted; decrypt it"):
        files.load()


@pytest.mark.parametrize("name", ["certificate", "key", "ca"])
@pytest.mark.parametrize(
    "content", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_junk_is_refused(files: Files, name: str, content: bytes) -> None:
    getattr(files, name).write_bytes(content)
    with pytest.raises(CertificateError, match=r"expected (certificates|a private key) as PEM in"):
        files.load()


def test_an_expired_certificate_is_refused(files: Files, maker: CertificateMaker) -> None:
    old = maker.issue("localhost", "server", ["localhost"], valid=timedelta(seconds=-1))
    files.certificate.write_bytes(old.certificate)
    files.write_key(old.key)
    with pytest.raises(CertificateError, match=r"'CN=localhost' in .* expired on .*; have it issued again"):
        files.load()


def test_an_expired_ca_is_refused(files: Files) -> None:
    files.ca.write_bytes(CertificateMaker("Old CA", timedelta(days=-1)).ca.certificate)
    with pytest.raises(CertificateError, match=r"'CN=Old CA' in .* expired on"):
        files.load()


def test_one_that_expires_soon_is_said(files: Files, maker: CertificateMaker, caplog) -> None:
    soon = maker.issue("localhost", "server", ["localhost"], valid=timedelta(days=3))
    files.certificate.write_bytes(soon.certificate)
    files.write_key(soon.key)
    files.load()
    assert "'CN=localhost' in" in caplog.text
    assert "expires on" in caplog.text


def test_a_client_certificate_is_no_servers(files: Files, maker: CertificateMaker) -> None:
    client = maker.issue("clerk", "client")
    files.certificate.write_bytes(client.certificate)
    files.write_key(client.key)
    with pytest.raises(CertificateError, match="expected a server's certificate"):
        files.load()


def test_a_server_without_a_host_is_refused(files: Files, maker: CertificateMaker) -> None:
    nameless = maker.issue("localhost", "server")
    files.certificate.write_bytes(nameless.certificate)
    files.write_key(nameless.key)
    with pytest.raises(CertificateError, match="names no host as subject alternative name"):
        files.load()


def test_a_ca_file_with_something_else_in_it_is_refused(
    files: Files, maker: CertificateMaker, server: Issued
) -> None:
    files.ca.write_bytes(maker.ca.certificate + server.certificate)
    with pytest.raises(CertificateError, match="found 'CN=localhost', which may not issue certificates"):
        files.load()


def test_a_client_is_who_the_certificate_says(maker: CertificateMaker) -> None:
    pem = maker.issue('J\u00fcrgen, of the "court"\n', "client").certificate
    client = identify(pem)
    certificate = x509.load_pem_x509_certificate(pem)
    assert client.subject == certificate.subject.rfc4514_string()
    assert client.subject.startswith("CN=J\u00fcrgen\\, of the")
    assert int(client.serial, 16) == certificate.serial_number
    assert len(client.sha256) == 64
    with pytest.raises(CertificateError, match="cannot be read"):
        identify(b"junk")


def test_a_policy_serves_named_clients_while_their_certificates_last(maker: CertificateMaker) -> None:
    clerk = identify(maker.issue("clerk", "client").certificate)
    now = datetime.now(UTC)
    assert ClientPolicy().refusal(clerk, now) == ""
    assert ClientPolicy(frozenset({"CN=clerk"})).refusal(clerk, now) == ""
    assert "not among those" in ClientPolicy(frozenset({"CN=judge"})).refusal(clerk, now)
    assert "not now" in ClientPolicy().refusal(clerk, now + 2 * MONTH)
    assert "not now" in ClientPolicy().refusal(clerk, now - MONTH)


def test_ephemeral_certificates_outlive_every_run() -> None:
    tls = ephemeral_tls()
    server, client = (x509.load_pem_x509_certificate(pair.certificate) for pair in (tls.server, tls.client))
    ca = x509.load_pem_x509_certificate(tls.ca)
    for certificate in (server, client):
        certificate.verify_directly_issued_by(ca)
        assert certificate.not_valid_after_utc - datetime.now(UTC) > timedelta(days=3000)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert ephemeral_tls().ca != tls.ca


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["certificates", *map(str, arguments)])


def test_the_command_makes_what_the_server_takes(tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    old = os.umask(0)
    try:
        result = run(folder, "--host", "example.org", "--client", "clerk", "--client", "judge")
    finally:
        os.umask(old)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        str(folder / f"{name}.pem") for name in ("ca", "server", "clerk", "judge")
    ]
    assert {path.stat().st_mode & 0o777 for path in folder.glob("*.key")} == {0o600}
    load_server_certificates(folder / "server.pem", folder / "server.key", folder / "ca.pem")
    assert identify((folder / "judge.pem").read_bytes()).subject == "CN=judge"


def test_the_command_overwrites_nothing(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert (result.exit_code, "keys are never overwritten" in result.stderr) == (1, True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "ca", "Server", "../up", "x" * 65])
def test_names_that_would_collide_are_bad_usage(tmp_path: Path, name: str) -> None:
    assert run(tmp_path / "new", "--client", name).exit_code == 2
    assert run(tmp_path / "new", "--client", "twin", "--client", "TWIN").exit_code == 2
    assert not (tmp_path / "new").exists()
