"""The public server: a bundle's networks, over gRPC and HTTP, each through its door."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from ..backends import check_full_precision
from ..manifest import Manifest
from .arrangement import Arrangement
from .endpoint import Endpoint, address, public_endpoint
from .grpc_door import GrpcDoor
from .http_door import HttpDoor
from .repository import ServedModel, models_of, names_of, open_role, platform_named
from .settings import ServerSettings
from .supervisor import OpenDoor

logger = logging.getLogger(__name__)


def arrange_public(settings: ServerSettings) -> Arrangement:
    """The public role's own parts.

    Raises:
        BundleError: there is no public bundle.
        BackendError: the bundle is the anonymiser's, and the backend not one that it was compared in.
        ServingError: the configuration's name is unknown.
    """
    platform = platform_named(settings.config_name)

    def read() -> Mapping[str, ServedModel]:
        return models_of(
            open_role(settings.bundle, "public"),
            repository=settings.repository,
            platform=platform,
            instances=settings.instances,
        )

    endpoint = public_endpoint(settings)
    manifest = open_role(settings.bundle, "public").manifest
    if manifest.float32_only:
        check_full_precision(settings.backend)
    return Arrangement(read=read, endpoint=endpoint, doors=public_doors(settings, endpoint, manifest))


def public_doors(settings: ServerSettings, endpoint: Endpoint, manifest: Manifest) -> Sequence[OpenDoor]:
    """The gRPC door, and the HTTP door if HTTP is on."""
    models = {name: manifest.models[name] for name in names_of(manifest)}

    def open_grpc() -> GrpcDoor:
        door = GrpcDoor(
            models,
            max_batch=manifest.max_batch,
            upstream=endpoint.grpc_url,
            address=address(settings.host, settings.grpc_port),
            shared_memory=settings.shared_memory,
            drain_s=settings.drain_s,
        ).start()
        logger.info("for clients: grpc://%s", address(settings.host, settings.grpc_port))
        return door

    http_port, upstream_port = settings.http_port, endpoint.http_port
    if http_port is None or upstream_port is None:
        return (open_grpc,)

    def open_http() -> HttpDoor:
        door = HttpDoor(
            models,
            max_batch=manifest.max_batch,
            upstream_port=upstream_port,
            host=settings.host,
            port=http_port,
            drain_s=settings.drain_s,
        ).start()
        logger.info("for clients: http://%s", address(settings.host, door.port))
        return door

    return open_grpc, open_http
