"""Users taken out of the journal of events, and out of what was set aside of it.

The journal is its owner's alone: a writer that runs makes it anew without them, within seconds, and
where none runs, that is done here.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import closing
from typing import Any

from prerank.core.errors import NotReadyError
from prerank.core.forgotten import Forgotten
from prerank.core.home import Home
from prerank.online.compaction import JournalConfig
from prerank.online.dead_letters import DeadLetters, path_of
from prerank.online.journal import replay
from prerank.online.logs import in_redis, open_log
from prerank.online.segments import found_segments
from prerank.online.store import BULK
from prerank.online.streams import Streams, reached

POLL_S = 0.5


def journal_without(home: Home, users: Collection[str], wait_s: float) -> tuple[int, str]:
    """Take the events of users out of the journal, or have its owners do so.

    Args:
        home: whose journal.
        users: who were forgotten (``prerank.core.forgotten.remember``).
        wait_s: how long to wait for owners.

    Returns:
        Events that are left, and why; "" where none is and no owner may write one again.

    Raises:
        NotReadyError: the journal in Redis cannot be reached.
    """
    if not in_redis() and not home.journal.exists():
        return 0, ""
    deadline = time.monotonic() + wait_s
    while True:
        owner = _purged(home)
        left = journaled(home, users)
        late = left or (home.store and _unaware(home))
        if not late or time.monotonic() >= deadline:
            return left, owner if late else ""
        time.sleep(POLL_S)


def _unaware(home: Home) -> bool:
    """Whether writers on other nodes may still write histories of whom they know nothing."""
    with closing(Streams(home, BULK)) as streams, reached():
        return bool(streams.owners_without(Forgotten.of(home).digest))


def _purged(home: Home) -> str:
    """Make the journal anew where nobody owns it; who does, else."""
    try:
        with closing(open_log(home, 0, 1, JournalConfig(days=None), 0.0)) as log:
            log.purge()
        return ""
    except NotReadyError as error:
        return str(error)


def journaled(home: Home, users: Collection[str]) -> int:
    """How many records of users every file and stream of the journal has.

    Raises:
        NotReadyError: the journal in Redis cannot be reached.
    """
    return sum(
        isinstance(record, dict) and record.get("user_id") in users for record in _records(home)
    )


def _records(home: Home) -> Iterator[Any]:
    for segment in found_segments(home.journal):
        try:
            with segment.path.open("rb") as file:
                for records, _ in replay(file):
                    yield from records
        except FileNotFoundError:
            # Its owner has just replaced it.
            continue
    if in_redis():
        with closing(Streams(home, BULK)) as streams, reached():
            for shard in streams.shards():
                for entries in streams.read(shard):
                    yield from (entry.record for entry in entries)


def dead_letters_without(home: Home, forgotten: Forgotten) -> int:
    """Take what was set aside of users away; how many letters.

    Raises:
        NotReadyError: the journal in Redis cannot be reached.
    """
    gone = 0
    if path_of(home.journal).exists():
        gone += DeadLetters(home.journal).forget_users(forgotten)
    if in_redis():
        with closing(Streams(home, BULK)) as streams, reached():
            gone += streams.forget_dead_letters_of(forgotten)
    return gone
