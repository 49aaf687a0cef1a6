"""What a user's terminal shows: our own output, and nothing that a library says to its developers.

``PRERANK_DEBUG=1`` shows all of it again.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

import interactrank
import prerank

DEBUG_ENV = "PRERANK_DEBUG"
LOGGERS = ("alembic", "feast", "httpx", "mlflow", "optuna", "ray", "ray.serve", "torch", "urllib3")
OURS = tuple(str(Path(str(p.__file__)).parent) + os.sep for p in (interactrank, prerank))
"""Folders of our code: a warning is ours if the line that caused it is in one of them."""


def debugging() -> bool:
    """Whether the user asked to see everything."""
    return os.environ.get(DEBUG_ENV, "0") not in ("", "0")


def hush() -> None:
    """Hide libraries' warnings and log lines below an error, in this process and its children.

    Warnings that our own code causes stay visible, and so does whatever is asked for by Python's
    own ``-W`` or ``PYTHONWARNINGS``.
    """
    if debugging():
        return
    # MLflow sets its level when it is imported, from this variable.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
        # Ray Serve sets its level when it is imported; a filter stays.
        logging.getLogger(name).addFilter(_errors)
    if not sys.warnoptions:
        # Not a filter: Feast and others put their own in front of ours when they are imported.
        warnings.showwarning = _show_ours


def _errors(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _show_ours(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if filename.startswith(OURS):
        out = sys.stderr if file is None else file
        out.write(f"warning: {message} ({filename}:{lineno})\n")


@contextmanager
def muted() -> Iterator[None]:
    """Drop what a library prints within the block; its errors are raised as ever."""
    if debugging():
        yield
        return
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


def ray_options() -> dict[str, Any]:
    """Options of ``ray.init``: whether lines of workers come to this terminal."""
    if debugging():
        return {"log_to_driver": True}
    return {"log_to_driver": False, "logging_level": "ERROR"}
