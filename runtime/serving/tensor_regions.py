"""The shared memory through which Triton hands faces to its Python-based backend, without a name.

Each instance of a model has a region in ``/dev/shm`` that every user of the machine may read (mode 644,
whatever the umask) and that outlives a killed server: protected and restored faces among it. The server and
its backend need the name only while an instance starts. So the name is chosen here, and taken away as soon as
the model is ready; the memory then lives as long as the two processes, and nobody else finds it.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from ..errors import ServingError

_FOLDER = Path("/dev/shm")


class TensorRegions:
    """The regions of one server.

    Attributes:
        prefix: what their names begin with.
        option: tells Triton so.
    """

    def __init__(self) -> None:
        self.prefix = f"erasablemask-{os.getpid()}-{secrets.token_hex(8)}-"
        # Under this name also for a Python-based backend that has a name of its own.
        self.option = f"--backend-config=python,shm-region-prefix-name={self.prefix}"

    def hide(self) -> int:
        """Takes the names away; call it when a model has become ready, before it gets faces.

        Call it again after the server has ended, however it ended: it may have been about to start one more.

        Returns:
            How many names there were: one for each new instance.

        Raises:
            ServingError: one cannot be taken away.
        """
        names = list(_FOLDER.glob(f"{self.prefix}*"))
        try:
            for name in names:
                name.unlink(missing_ok=True)
        except OSError as error:
            raise ServingError(
                f"cannot remove {error.filename}, through which other users could read faces: "
                f"{error.strerror}"
            ) from error
        return len(names)
