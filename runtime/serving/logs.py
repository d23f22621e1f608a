"""Log lines of a server on stderr: text for people, or JSON for programs. No pictures and no names."""

from __future__ import annotations

import json
import logging
import os
import sys
import time

from .settings import LogFormat


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger and message."""

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter.format``."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_to_stderr(log_format: LogFormat) -> None:
    """Shows what the runtime logs, from INFO on, and of other libraries' lines warnings and errors.

    Call it before the first use of gRPC.
    """
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        # gRPC writes lines of its own to stderr, say of a failed handshake, and they are no JSON.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().handlers = [handler]
    logging.getLogger("runtime").setLevel(logging.INFO)
