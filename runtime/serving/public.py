"""The public server: ``protect`` and ``attributes``, gRPC from Triton itself, HTTP through a door."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from ..manifest import Manifest
from .arrangement import Arrangement
from .endpoint import Endpoint, address, public_endpoint
from .http_door import HttpDoor
from .repository import MODELS, ServedModel, models_of, open_role, platform_named
from .settings import ServerSettings
from .supervisor import OpenDoor

logger = logging.getLogger(__name__)


def arrange_public(settings: ServerSettings) -> Arrangement:
    """The public role's own parts.

    Raises:
        BundleError: there is no public bundle.
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
    return Arrangement(read=read, endpoint=endpoint, doors=public_doors(settings, endpoint, manifest))


def public_doors(settings: ServerSettings, endpoint: Endpoint, manifest: Manifest) -> Sequence[OpenDoor]:
    """The HTTP door, if HTTP is on: from ``settings.host`` and ``http_port`` to ``endpoint.http_port``."""
    http_port, upstream_port = settings.http_port, endpoint.http_port
    if http_port is None or upstream_port is None:
        return ()

    def open_door() -> HttpDoor:
        door = HttpDoor(
            {name: manifest.models[name] for name in MODELS["public"]},
            max_batch=manifest.max_batch,
            upstream_port=upstream_port,
            host=settings.host,
            port=http_port,
            drain_s=settings.drain_s,
        ).start()
        logger.info("for clients: http://%s", address(settings.host, door.port))
        return door

    return (open_door,)
