"""Log lines as JSON, and the request that they belong to.

Whoever handles a request sets ``HANDLING``; a thread that works on it is given a copy of the
context, so its lines name the request too. Without ``json_lines`` logging stays as Python has it.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO

from prerank.core.redact import redact


@dataclass
class Handling:
    """A request while it is handled.

    Attributes:
        request_id: the caller's, or a made one.
        route: name of the route that takes it; empty until it is known.
        token: name of the token that it brought; empty where none is asked for.
    """

    request_id: str
    route: str = ""
    token: str = ""


HANDLING: ContextVar[Handling | None] = ContextVar("handling", default=None)
"""The request that is handled now."""


class JsonLines(logging.Formatter):
    """A record as one line of JSON, without passwords.

    Args:
        model_version: that is served now; None where there is none.
    """

    def __init__(self, model_version: Callable[[], str | None]) -> None:
        super().__init__()
        self._model_version = model_version

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": redact(record.getMessage()),
            "model_version": self._model_version(),
        }
        if handling := HANDLING.get():
            line |= {"request_id": handling.request_id, "route": handling.route}
            if handling.token:
                line["token"] = handling.token
        if record.exc_info:
            line["error"] = redact(self.formatException(record.exc_info))
        return json.dumps(line)


def json_lines(
    model_version: Callable[[], str | None] = lambda: None, stream: TextIO | None = None
) -> logging.Handler:
    """Write every record of this process to ``stream``, standard error by default, as JSON.

    Of this project's records those from level INFO on are written, of libraries' those from WARNING
    on.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonLines(model_version))
    logging.getLogger().addHandler(handler)
    logging.getLogger("prerank").setLevel(logging.INFO)
    return handler
