"""One command at a time is at something of a home, on whatever node.

On one node a lock says so, which goes with its process (``prerank.core.files.held``). Nodes that
have nothing in common but an object store have no such lock. There a command has a lease as well:
an object that it writes anew while it lives. Nobody compares clocks. Who finds a lease watches it:
one that changes is of a command that lives, one that does not is of a command that died.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prerank.core.errors import PrerankError, StateError
from prerank.core.files import held
from prerank.core.home import Home
from prerank.core.storage import Store
from prerank.core.travel import cache_id

BEAT_S, DEAD_S = 15.0, 120.0
"""How often a lease is renewed, and how long one that is not is watched."""
LEASE = "lease"
FREE = b"{}"

logger = logging.getLogger(__name__)


@contextmanager
def alone(home: Home, folder: Path, what: str) -> Iterator[None]:
    """No other command is at ``folder`` of a home while the block runs.

    In a store, a command that stood still for longer than ``DEAD_S`` counts as dead, and may go on
    beside the one that took its place: what both would write must be among
    ``prerank.core.mirror.SWAPPED``, where the late one is refused.

    Args:
        home: local, or in an object store.
        folder: of the home.
        what: is done there, for messages, such as "retraining".

    Raises:
        StateError: another one is at it.
        NotReadyError: the store does not answer.
    """
    runs = f"another {what} of {home.place} runs{{}}: wait for it, or end it; what it did is kept."
    with held(folder) as free:
        if not free:
            raise StateError(runs.format(""))
        if home.store is None:
            yield
            return
        lease = _Lease(home.store, f"{folder.relative_to(home.root).as_posix()}/{LEASE}")
        if (other := lease.take(what)) is not None:
            raise StateError(runs.format(f" on {other}"))
        done = threading.Event()
        thread = threading.Thread(target=lease.renew, args=(done,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            lease.give_back()


class _Lease:
    """An object of a store: who has it, and how often it was written."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        self._own = {"id": uuid.uuid4().hex, "host": socket.gethostname(), "cache": cache_id(store)}
        self._beats, self._now = 0, FREE

    def take(self, what: str) -> str | None:
        """Have it; or, where another command has it, the name of that one's node."""
        found = self._store.read(self._name)
        if found not in (None, FREE) and (other := _read(found))["cache"] != self._own["cache"]:
            # With this node's lock, one of this cache folder is of a command that died.
            logger.warning(
                "a %s of %s began on %s and has not ended: watching for %g s whether it runs",
                *(what, self._store.uri, other["host"], DEAD_S),
            )
            found = self._watched(found)
            if found is None:
                return other["host"]
        if self._written(found):
            return None
        return _read(self._store.read(self._name))["host"]

    def _watched(self, found: bytes | None) -> bytes | None:
        """A lease as it is when it was given back or nobody renewed it; None if somebody did."""
        until = time.monotonic() + DEAD_S
        while time.monotonic() < until:
            time.sleep(min(BEAT_S, max(until - time.monotonic(), 0.0)))
            now = self._store.read(self._name)
            if now != found:
                return FREE if now == FREE else None
        return found

    def renew(self, done: threading.Event) -> None:
        """Write it anew until ``done``, or until another command has it."""
        while not done.wait(BEAT_S):
            try:
                if not self._written(self._now):
                    logger.error("%s was taken over: this command counted as dead", self._name)
                    return
            except PrerankError as error:
                logger.warning("a lease could not be renewed, which is tried again: %s", error)

    def _written(self, before: bytes | None) -> bool:
        text = json.dumps({**self._own, "beats": self._beats + 1}).encode()
        if not self._store.swap(self._name, text, before):
            return False
        self._beats, self._now = self._beats + 1, text
        return True

    def give_back(self) -> None:
        """Nobody has it, unless another command took it over."""
        try:
            self._store.swap(self._name, FREE, self._now)
        except PrerankError as error:
            logger.warning("a lease was not given back, which the next command sees: %s", error)


def _read(text: bytes | None) -> dict[str, str]:
    """Who has a lease; nobody known where it cannot be read."""
    unknown = {"host": "another node", "cache": ""}
    try:
        return unknown | json.loads(text or b"{}")
    except (ValueError, TypeError):
        return unknown
