"""Whose a shard of users is: one writer reads, merges and writes it, for as long as it lives.

An owner holds a lock (``flock``) on a file that says who it is. Owners of another number of shards
have other users, so they exclude each other too. A lock ends with its process, however that ends.
Between hosts the file system must honour ``flock``: on one that does not, two owners do not see
each other, and all that is left to see is a name that its owner never took out of the file.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from prerank.core.errors import NotReadyError, StateError

POLL_S = 0.1

logger = logging.getLogger(__name__)


class Ownership:
    """A shard of the users of a home, from construction until ``release``.

    Args:
        folder: of the locks.
        shard, shards: which users.
        wait_s: how long to wait for an owner that is about to end.

    Raises:
        NotReadyError: another writer has these users, or some of them; the message names it.
        StateError: the file system has no locks.
    """

    def __init__(self, folder: Path, shard: int, shards: int, wait_s: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"owner-{shard:03d}-of-{shards:03d}.lock"
        self._same = f"owner-*-of-{shards:03d}.lock"
        self._file: IO[str]
        deadline = time.monotonic() + wait_s
        while owner := self._taken():
            if time.monotonic() >= deadline:
                raise refused(str(folder.parent), owner)
            time.sleep(POLL_S)

    def release(self) -> None:
        """Let another writer have the users."""
        with self._file:
            # A name that stays tells of an owner that did not end in order.
            self._file.truncate(0)

    def _taken(self) -> str:
        """Take the shard; who has it, if it cannot be had."""
        # One process at a time looks at the other locks and takes its own.
        with (self._path.parent / "owners.lock").open("a") as gate:
            _locked(gate, wait=True)
            for path in sorted(self._path.parent.glob("owner-*-of-*.lock")):
                if not path.match(self._same):
                    with path.open("a+") as other:
                        if not _locked(other):
                            return _described(path, other)
            file = self._path.open("a+")
            if not _locked(file):
                with file:
                    return _described(self._path, file)
            self._sign(file)
        return ""

    def _sign(self, file: IO[str]) -> None:
        before = _named(file)
        if before and before["host"] != socket.gethostname():
            logger.warning(
                "%s was owned by %s, which did not release it. If that still runs, the file system "
                "of this home does not honour flock between hosts: stop one of the two.",
                self._path,
                _described(self._path, file),
            )
        file.truncate(0)
        json.dump(signature(), file)
        file.flush()
        self._file = file


def signature() -> dict[str, Any]:
    """Who this process is, to those whom it keeps out."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since}


def described(owner: Mapping[str, Any], users: str) -> str:
    """An owner in words, from its ``signature``."""
    here = "this host" if owner["host"] == socket.gethostname() else "another host"
    return (
        f"process (pid) {owner['pid']} on host {owner['host']} ({here}) "
        f"since {owner['since']}, {users}"
    )


def refused(home: str, owner: str) -> NotReadyError:
    """Why there is no second writer of users that have an owner."""
    return NotReadyError(
        f"user histories of {home} are written by {owner}: two writers of the same users would "
        "lose each other's updates. Stop that deployment, or give this one a home of its own."
    )


def _locked(file: IO[str], wait: bool = False) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        raise StateError(
            f"{file.name} cannot be locked ({error}). PRERANK_HOME must be on a file system that "
            "honours flock."
        ) from error
    return True


def _named(file: IO[str]) -> dict[str, Any]:
    """Who signed a lock file; empty where nobody did, or a crash tore the name."""
    file.seek(0)
    try:
        found = json.loads(file.read())
        return {name: found[name] for name in ("host", "pid", "since")}
    except (ValueError, TypeError, KeyError):
        return {}


def _described(path: Path, file: IO[str]) -> str:
    owner = _named(file)
    if not owner:
        return f"the owner of {path.name}, which did not sign it"
    return described(owner, path.stem)
