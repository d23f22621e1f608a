"""TLS between client and server: each shows a certificate, and nobody without one gets an answer."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from runtime.backends.triton import TritonServer
from runtime.errors import BackendError

from .triton_fakes import FakeTriton, manifest_of, model, tensor

ENTRY = model([tensor("x", 1)], [tensor("y", 1)])
MODELS = {"protect": (ENTRY, lambda inputs: {"y": inputs["x"] + 1})}


class Authority:
    """A CA that writes PEM files into a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        constraints = x509.BasicConstraints(ca=True, path_length=0), True
        self.ca = self._write("ca", self._certificate(self.name, self.key, constraints), self.key)[0]

    def issue(self, name: str) -> tuple[Path, Path]:
        """Certificate and key for ``name``, good for 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return self._write(name, self._certificate(subject, key, (address, False)), key)

    def _certificate(self, subject: x509.Name, key: Any, extension: tuple[Any, bool]) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(extension[0], critical=extension[1])
            .sign(self.key, hashes.SHA256())
        )

    def _write(self, name: str, certificate: x509.Certificate, key: Any) -> tuple[Path, Path]:
        paths = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return paths


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def urls(authority: Authority) -> Iterator[dict[str, str]]:
    """Both demand a certificate."""
    certificate, key = authority.issue("server")
    credentials = grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())], authority.ca.read_bytes(), require_client_auth=True
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.ca)
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    with FakeTriton(MODELS, credentials, context) as fake:
        yield {"grpcs": fake.url("grpcs"), "https": fake.url("https")}


@pytest.fixture(params=["grpcs", "https"])
def url(request: pytest.FixtureRequest, urls: dict[str, str]) -> str:
    return urls[request.param]


def test_who_has_a_certificate_is_served(url: str, authority: Authority) -> None:
    certificate, key = authority.issue("client")
    server = TritonServer(url=url, tls_ca=authority.ca, tls_cert=certificate, tls_key=key)
    with server.connect("protect", manifest_of({"protect": ENTRY})) as backend:
        assert backend.run({"x": np.ones((2, 1), np.float32)})["y"].tolist() == [[2], [2]]


@pytest.mark.parametrize("case", ["no certificate", "a stranger's certificate", "another server"])
def test_who_has_not_is_not(case: str, url: str, authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "theirs")
    certificate, key = (
        stranger.issue("client") if case.startswith("a stranger") else authority.issue("client")
    )
    server = TritonServer(
        url=url,
        tls_ca=stranger.ca if case == "another server" else authority.ca,
        tls_cert=None if case == "no certificate" else certificate,
        tls_key=None if case == "no certificate" else key,
        deadline_s=0.5,
    )
    with pytest.raises(BackendError, match="certificates"):
        server.connect("protect", manifest_of({"protect": ENTRY}))


def test_a_key_of_another_certificate_is_an_error(url: str, authority: Authority) -> None:
    certificate, _ = authority.issue("one")
    _, key = authority.issue("two")
    server = TritonServer(url=url, tls_ca=authority.ca, tls_cert=certificate, tls_key=key, deadline_s=0.5)
    with pytest.raises(BackendError, match="certificate"):
        server.connect("protect", manifest_of({"protect": ENTRY}))
