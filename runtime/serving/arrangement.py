"""A role's server, put together: what it serves, where it listens, what stands before it."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .admin import Admin
from .connections import allow_open_files
from .endpoint import Endpoint, check_free
from .heap import return_large_blocks
from .installation import find_server
from .process import ServerProcess, server_command
from .repository import ServedModel
from .settings import ServerSettings
from .signals import listen
from .staging import StagedRepository, write_file
from .supervisor import OpenDoor, Supervisor

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """What is a role's own.

    Attributes:
        read: the models of the bundle as it is now; called again for every update.
        endpoint: where Triton itself listens.
        doors: open what stands before it; called when every model has answered.
        write: puts a model's bytes into the repository.
        renew: reads again what the doors have of files, for every update; None: nothing.
    """

    read: Callable[[], Mapping[str, ServedModel]]
    endpoint: Endpoint
    doors: Sequence[OpenDoor] = ()
    write: Callable[[Path, bytes], None] = write_file
    renew: Callable[[], None] | None = None


def serve(settings: ServerSettings, arrangement: Arrangement) -> int:
    """Serves until a signal; call it in the main thread.

    Returns:
        Triton's exit status.

    Raises:
        ErasableMaskError: the models cannot be read, a port is taken, there is no server, or it does not
            start; see ``find_server`` and ``Supervisor.run``.
    """
    allow_open_files()
    return_large_blocks()
    events = listen()
    endpoint = arrangement.endpoint
    check_free(settings)
    workplace = Path(tempfile.mkdtemp(prefix="erasablemask-serve-"))
    try:
        # Not by way of a name: the models' bytes, perhaps a secret, must not stay here while it runs.
        repository = StagedRepository(workplace / "models", arrangement.read(), write=arrangement.write)
        installation = find_server(settings, workplace)
        memory_prefix = f"erasablemask-{os.getpid()}-"

        def launch() -> ServerProcess:
            command = server_command(
                installation, settings, endpoint, repository.folder, repository.models, memory_prefix
            )
            return ServerProcess(command, variables=installation.variables, memory_prefix=memory_prefix)

        logger.info("starting %s, its gRPC on %s", installation.program, endpoint.grpc_url)
        with Admin(endpoint) as server:
            return Supervisor(
                settings,
                repository=repository,
                launch=launch,
                server=server,
                reopen=arrangement.read,
                renew=arrangement.renew,
                doors=arrangement.doors,
                events=events,
            ).run()
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
