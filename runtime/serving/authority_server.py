"""The authority's server: the restorer in memory, Triton on loopback behind the door."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from ..authority import Secret, unseal_model
from ..manifest import Bundle
from .arrangement import Arrangement
from .audit import AuditLog
from .authority_door import AuthorityDoor, DoorSettings
from .authority_request import Contract
from .certificate_maker import ephemeral_tls
from .certificates import RenewedCertificates
from .clients import ClientPolicy
from .endpoint import LOOPBACK, ClientTls, Endpoint, address, free_port
from .memory_file import MemoryFile, MemoryModels, forbid_core_dumps
from .repository import ServedModel, configurations, open_role
from .revocation import RevocationList
from .settings import ServerSettings
from .triton_config import ONNX

RESTORE = "restore"

logger = logging.getLogger(__name__)


@contextmanager
def arrange_authority(settings: ServerSettings, secret: Secret) -> Iterator[Arrangement]:
    """The authority's own parts, which live as long as the context.

    Raises:
        BundleError: there is no authority's bundle, or it is damaged.
        SecretError: the secret does not open the restorer.
        CertificateError: a certificate is missing or unusable.
        AuditError: the log cannot be written, is in use or broken.
        ServingError: there are no files in memory, or core dumps cannot be turned off.
    """
    # The settings have refused to be made without these.
    assert settings.server_certificate is not None
    assert settings.server_key is not None
    assert settings.client_ca is not None
    assert settings.audit_log is not None
    forbid_core_dumps()
    certificates = RenewedCertificates(settings.server_certificate, settings.server_key, settings.client_ca)
    policy = _policy(settings, certificates.current.client_ca)
    bundle = open_role(settings.bundle, "authority")
    tls = ephemeral_tls()
    with ExitStack() as stack:
        models = stack.enter_context(MemoryModels())
        log = stack.enter_context(AuditLog(settings.audit_log))
        flags = ["--grpc-use-ssl=true", "--grpc-use-ssl-mutual=true"]
        for flag, pem in (
            ("server-cert", tls.server.certificate),
            ("server-key", tls.server.key),
            ("root-cert", tls.ca),
        ):
            flags.append(f"--grpc-{flag}={stack.enter_context(MemoryFile(pem, flag)).path}")
        endpoint = Endpoint(
            host=LOOPBACK,
            grpc_port=free_port(),
            tls=ClientTls(server_ca=tls.ca, certificate=tls.client.certificate, key=tls.client.key),
            flags=tuple(flags),
        )

        def read() -> Mapping[str, ServedModel]:
            return _read(open_role(settings.bundle, "authority"), secret, settings.instances)

        def open_door() -> AuthorityDoor:
            place = address(settings.host, settings.grpc_port)
            door = AuthorityDoor(
                DoorSettings(
                    address=place,
                    upstream=endpoint.grpc_url,
                    max_concurrent=settings.max_erasures,
                    drain_s=settings.drain_s,
                ),
                contract=Contract.of(
                    RESTORE, bundle.manifest.models[RESTORE], max_batch=bundle.manifest.max_batch
                ),
                certificates=lambda: certificates.current,
                upstream_tls=tls,
                sha256_of=models.sha256_of,
                log=log,
                policy=policy,
            )
            logger.info("for clients with a certificate: grpcs://%s", place)
            return door

        yield Arrangement(
            read=read,
            endpoint=endpoint,
            doors=(open_door,),
            write=models.write,
            renew=certificates.renew,
        )


def _policy(settings: ServerSettings, client_ca: bytes) -> ClientPolicy:
    revoked = settings.client_revocations
    return ClientPolicy(
        subjects=frozenset(settings.client_subjects) or None,
        revoked=None if revoked is None else RevocationList(revoked, client_ca),
    )


def _read(bundle: Bundle, secret: Secret, instances: int) -> Mapping[str, ServedModel]:
    entry = bundle.manifest.models[RESTORE]
    return {
        RESTORE: ServedModel(
            entry=entry,
            configs=configurations(bundle, RESTORE, instances=instances),
            files={ONNX.file: unseal_model(bundle, secret)},
        )
    }
