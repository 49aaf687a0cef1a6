"""Users' histories in the online store: read, merged with new events, and written back.

A back-fill shares a lock with the live writers, so two processes never read, merge and write the
same user at once. The lock is a file's: on several hosts it needs a file system that honours
``flock``.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from feast import FeatureStore
from feast.data_source import PushMode

from prerank.core.forgotten import following
from prerank.core.home import Home
from prerank.online.history import (
    HISTORY_FIELDS,
    Event,
    History,
    HistoryTable,
    as_frame,
    merged,
    read_histories,
)
from prerank.online.logs import acknowledged_events

LOCK = "history.lock"
"""File of Feast's folder that whoever writes histories has locked."""
PROBE_USER = "\0probe"
"""No user: the row that is written to learn whether the store takes rows at all."""
PROBE = History(*(np.zeros(1, np.int64) for _ in HISTORY_FIELDS))

logger = logging.getLogger(__name__)


class OnlineHistories:
    """The histories of one table in ``store``.

    Args:
        home: holds the lock and the journal.
        store: Feast's store, applied.
        table: whose; an event of an action that it has no code for enters no history.
        exclusive: for a back-fill, which has everybody's users; live writers have disjoint ones.
    """

    def __init__(
        self, home: Home, store: FeatureStore, table: HistoryTable, exclusive: bool = False
    ) -> None:
        self._home, self._store, self._table = home, store, table
        self._lock_path = home.feast / LOCK
        self._lock = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH

    def merge_histories(self, new: Mapping[str, History]) -> None:
        """Merge whole histories, coded as the table's, into those of their users.

        Repeats write nothing, and users who were forgotten get no history.

        Raises:
            Exception: the store's, whatever it is; none, some or all were written.
        """
        if not new:
            return
        with self._shared_with_backfill():
            # In here: `prerank forget` waits for the lock before it takes a history away.
            forgotten = following(self._home).now()
            known = {user: told for user, told in new.items() if user not in forgotten}
            if dropped := len(new) - len(known):
                logger.info("%d histories are not written: their users were forgotten", dropped)
            new = known
            before = read_histories(self._store, self._table.view, list(new))
            after = {user: merged(before[user], told) for user, told in new.items()}
            self._push({u: h for u, h in after.items() if len(h) and h != before[u]})

    def merge_events(self, events: Sequence[Event]) -> list[tuple[Event, str]]:
        """Merge the engagements among ``events``; those that the store never takes, with a reason.

        A batch that fails is halved, down to the events that fail alone; so one bad user holds up
        nobody. After each failure, a row that is known to be good is written: where that fails too
        it is not the events, the store is away. An event is given up when it failed twice between
        two such rows.

        Raises:
            Exception: the store's, whatever it is: it takes no rows now. Merging again is harmless.
        """
        engagements = [e for e in events if e.action in self._table.codes]
        return self._in_halves(sorted(engagements, key=lambda e: e.user_id))

    def merge_journal(self) -> None:
        """Merge all that was acknowledged, for a store that is filled from its beginning.

        What the store refuses, the writer that acknowledged it sets aside.

        Raises:
            Exception: the store's, whatever it is: it takes no rows now.
        """
        for events in acknowledged_events(self._home):
            self.merge_events(events)

    def _in_halves(
        self, events: Sequence[Event], failed_before: bool = False
    ) -> list[tuple[Event, str]]:
        try:
            self.merge_histories(self._table.histories(events))
            return []
        except Exception as error:
            self._probe()
            logger.warning("%d events could not be written: %s", len(events), error)
            reason = f"{type(error).__name__}: {error}"
        if len(events) > 1:
            middle = len(events) // 2
            return [*self._in_halves(events[:middle]), *self._in_halves(events[middle:])]
        return [(events[0], reason)] if failed_before else self._in_halves(events, True)

    def _probe(self) -> None:
        with self._shared_with_backfill():
            self._push({PROBE_USER: PROBE})

    def _push(self, rows: Mapping[str, History]) -> None:
        if rows:
            self._store.push(f"{self._table.view}_push", as_frame(rows), to=PushMode.ONLINE)

    @contextmanager
    def _shared_with_backfill(self) -> Iterator[None]:
        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock_path.open("a") as file:
            fcntl.flock(file, self._lock)
            yield
