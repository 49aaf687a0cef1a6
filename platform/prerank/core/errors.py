"""Every error a user can cause. Each message names the field or file and the fix.

::

    PrerankError                exit code 1
    ├── ConfigError             exit code 2   a mapping, configuration or option is wrong
    ├── DataError               exit code 3   a log, catalogue or request holds what it must not
    ├── StateError              exit code 4   a step was run before the one it needs, or elsewhere
    └── NotReadyError           exit code 5   no champion, no index, a service is away
        └── RegistryAwayError                 MLflow does not answer
"""

from __future__ import annotations

import errno


class PrerankError(Exception):
    """Base of all errors that are shown to the user without a traceback."""

    exit_code = 1


class ConfigError(PrerankError):
    """A mapping, a configuration or a command-line option is wrong."""

    exit_code = 2


class DataError(PrerankError):
    """Input data breaks the contract."""

    exit_code = 3


class StateError(PrerankError):
    """State under PRERANK_HOME is missing or unusable for this step."""

    exit_code = 4


class DamagedError(StateError):
    """A state file is there, but what it holds is not what was written."""


class NotReadyError(PrerankError):
    """A deployment cannot answer yet."""

    exit_code = 5


class RegistryAwayError(NotReadyError):
    """The registry cannot be asked; which version it would name is not known."""


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk of this machine is full, or a quota of it used up."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
