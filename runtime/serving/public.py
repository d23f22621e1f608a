"""The public server: ``protect`` and ``attributes``, gRPC from Triton itself, HTTP through a door."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import ServingError
from ..manifest import Manifest
from .arrangement import Arrangement
from .endpoint import Endpoint, public_endpoint
from .repository import ServedModel, models_of, open_role, platform_named
from .settings import ServerSettings
from .supervisor import OpenDoor


def arrange_public(settings: ServerSettings) -> Arrangement:
    """The public role's own parts.

    Raises:
        BundleError: there is no public bundle.
        ServingError: the configuration's name is unknown, or a door cannot be had.
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
    if settings.http_port is not None:
        raise ServingError("the HTTP door is not part of this build; leave out --http-port")
    return ()
