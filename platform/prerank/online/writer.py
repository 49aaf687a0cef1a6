"""Engagement events into users' online histories: one writer a user, and a journal.

An event is acknowledged when it stands in the journal (``prerank.online.event_log``). Merging is by
event id, so an event that is repeated or replayed counts once, and by event time, so a late event
takes its place among the older ones and a newer state is never lost. Whatever is written online is
the whole merged history, since the online store lets the last write win, old or new.

Several schemas may be online, of the live model and of the next: an event enters the histories of
each, under the code that its action has there. The writer looks with every batch which are.

A user belongs to one of N writers (``writer_of``), which owns its users for its life. Callers that
arrive while a batch is being written wait and are then written together, in one sync and one push
(``prerank.online.group_commit``).

A writer is level with its journal, or behind it: at its start, and when the store failed or holds
no features. While it is behind, events are only acknowledged; a background thread reads the journal
from where the online store ends, with growing pauses while the store is away, until the two are
level again. So no event is kept in memory for longer than its call. The same thread keeps the
journal small.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import xxhash
from feast import FeatureStore

from interactrank.features.schema import FeatureSchema
from prerank.core.errors import DataError, NotReadyError, PrerankError
from prerank.core.feature_sets import engagements, online_states
from prerank.core.forgotten import following
from prerank.core.home import Home
from prerank.online.compaction import JournalConfig
from prerank.online.group_commit import GroupCommit
from prerank.online.history import Event, online_tables
from prerank.online.logs import open_log
from prerank.online.merging import OnlineHistories
from prerank.online.records import check, event_of, record_of
from prerank.online.store import states_here
from prerank.online.watch import require_whole

CHECKPOINT_EVERY = 256
FIRST_RETRY_S, LAST_RETRY_S = 0.25, 30.0
POLL_S = 10.0
"""How often a writer that is level looks whether its journal is, and whether to make it smaller."""
OWNER_WAIT_S = 10.0
CLOSE_WAIT_S = 60.0
ROUNDS = 3
"""How often the journal is read to its end beside writers, before they wait for what is left."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """What became of a batch: events acknowledged, of which passive; whether online already."""

    accepted: int
    passive: int
    online: bool


def writer_of(user_id: str, shards: int) -> int:
    """The writer of a user; the same in every process."""
    return xxhash.xxh3_64_intdigest(user_id) % shards


class HistoryWriter:
    """The writer of one shard of users, until it is closed. Safe to share between threads.

    Args:
        home: holds the journal, where that is in files.
        store: Feast's store, applied.
        schema: of the log; passive actions are acknowledged and journaled, but no history.
        shard, shards: which users are this writer's.
        journal: how much of the journal is kept.
        wait_s: how long to wait for another owner of these users to end.

    Raises:
        NotReadyError: another writer owns these users, or the journal cannot be reached.
    """

    def __init__(
        self,
        home: Home,
        store: FeatureStore,
        schema: FeatureSchema,
        shard: int = 0,
        shards: int = 1,
        journal: JournalConfig | None = None,
        wait_s: float = OWNER_WAIT_S,
    ) -> None:
        self.home, self.schema, self.shard, self.shards = home, schema, shard, shards
        self._log = open_log(home, shard, shards, journal or JournalConfig(), wait_s)
        self._store, self._views = store, frozenset[str]()
        self._behind = False
        self._written_together = GroupCommit(self._commit)
        self._lock, self._replaying, self._starting = (threading.Lock() for _ in range(3))
        self._commits = 0
        self._thread: threading.Thread | None = None
        self._wake, self._closing = threading.Event(), threading.Event()

    def __enter__(self) -> HistoryWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, events: Sequence[Event]) -> Written:
        """Acknowledge ``events`` and merge them into their users' histories.

        Those of users who were forgotten are acknowledged and dropped.

        Raises:
            DataError: an action is unknown, or a field is out of range; nothing was written.
            NotReadyError: the writer is closed, or lost its users, or its journal is away;
                nothing is acknowledged.
            OSError: the journal cannot be written; nothing is acknowledged.
        """
        for event in events:
            check(event)
        for action in {e.action for e in events}.difference(self.schema.actions):
            # A schema that came online since this writer started may know it.
            if all(action not in s["schema"]["actions"] for s in online_states(self.home)):
                raise DataError(f"action {action!r} is unknown: {list(self.schema.actions)}")
        online = self._written_together(events)
        passive = sum(e.action in self.schema.passive for e in events)
        return Written(len(events), passive, online)

    def start(self) -> None:
        """Go level with the journal, and keep it small, in the background until ``close``."""
        with self._starting:
            if self._thread is None:
                name = f"histories-{self.shard}"
                self._thread = threading.Thread(target=self._follow, name=name, daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop the background thread, and let another writer have the users."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(CLOSE_WAIT_S)
            if self._thread.is_alive():
                logger.error("a push does not end: the users stay this process's until it ends")
                return
        with self._lock:
            self._log.save()
            self._log.close()

    def replay(self) -> int:
        """Merge what the journals hold beyond the online store; number of records read.

        Raises:
            NotReadyError: the writer was closed meanwhile, or the journal cannot be reached.
            Exception: the store's, whatever it is: it takes no rows now.
        """
        with self._replaying:
            with self._lock:
                self._behind = True
            count = sum(self._replay_once() for _ in range(ROUNDS))
            with self._lock:
                count += self._replay_once()
                self._behind = False
                self._log.save()
        return count

    def _replay_once(self) -> int:
        count = 0
        for batch in self._log.unmerged():
            if self._closing.is_set():
                raise NotReadyError("the writer is closed")
            self._merge_records(batch.records, batch.own)
            batch.merged()
            count += len(batch.records)
        return count

    def _merge_records(self, records: Sequence[object], own_journal: bool) -> None:
        events = []
        for record in records:
            try:
                event = event_of(record)
            except DataError as error:
                # Nobody knows whose it is; one writer of several sets it aside.
                if own_journal:
                    self._log.set_aside([(record, str(error))])
                continue
            if writer_of(event.user_id, self.shards) == self.shard:
                events.append(event)
        self._merge(events)

    def _merge(self, events: Sequence[Event]) -> None:
        """Merge ``events`` into every history that is online.

        Raises:
            NotReadyError: none is, or the store is not what was materialised.
            Exception: the store's, whatever it is: it takes no rows now.
        """
        states = states_here(self.home)
        tables = online_tables(states)
        if not tables:
            raise NotReadyError("no features are in this online store. Run `prerank materialise`.")
        views = frozenset(table.view for table in tables)
        if not views <= self._views:
            # An open store would learn of new views a minute late.
            self._store.refresh_registry()
        self._views = views
        require_whole(states, self._store)
        for table in tables:
            refused = OnlineHistories(self.home, self._store, table).merge_events(events)
            self._log.set_aside([(dict(vars(event)), reason) for event, reason in refused])

    def _commit(self, batches: Sequence[Sequence[Event]]) -> bool:
        """Acknowledge the batches of some callers; whether they are online.

        Raises:
            NotReadyError, OSError: nothing is acknowledged.
        """
        told = [e for batch in batches for e in batch]
        with self._lock:
            if self._closing.is_set():
                raise NotReadyError("the history writer is closed. Send the events again.")
            # In here: what was journaled before somebody was forgotten, the journal's next
            # compaction leaves out.
            forgotten = following(self.home).now()
            events = [e for e in told if e.user_id not in forgotten]
            if len(events) < len(told):
                dropped = len(told) - len(events)
                logger.info("%d events were dropped: their users were forgotten", dropped)
            now = int(time.time())
            merged = self._log.append([record_of(e, now) for e in events])
            self._behind = self._behind or self._log.stale
            if not self._behind:
                try:
                    self._merge(events)
                    merged()
                except Exception:
                    # Acknowledged all the same: the journal has it.
                    logger.exception("histories could not be written; they are read again later")
                    self._behind = True
            self._commits += 1
            if self._behind:
                self.start()
                self._wake.set()
            elif self._commits % CHECKPOINT_EVERY == 0:
                self._log.save()
            return not self._behind

    def _follow(self) -> None:
        pause = FIRST_RETRY_S
        while not self._closing.is_set():
            self._look()
            if self._behind or self._log.stale:
                pause = self._caught_up(pause)
            else:
                self._tidy()
                self._wake.wait(POLL_S)
                self._wake.clear()

    def _look(self) -> None:
        """See which features are online and who was forgotten, in a home in an object store."""
        try:
            home = self.home
            home.look(home.root, home.pointer.parent, home.features, home.feast)
        except PrerankError as error:
            logger.warning("what is online is as last seen: %s", error)

    def _caught_up(self, pause: float) -> float:
        """Try to go level with the journal; how long to pause before the next time."""
        try:
            self.replay()
        except Exception as error:
            if not self._closing.is_set():
                logger.warning("histories wait for the online store: %s", error)
            self._closing.wait(pause)
            return min(2 * pause, LAST_RETRY_S)
        return FIRST_RETRY_S

    def _tidy(self) -> None:
        """Remove from the journal what no replay needs, and what is older than is allowed."""
        try:
            with self._lock:
                if self._behind or self._log.stale:
                    return
                self._log.cut()
            # A history of another schema may need what is exposure in this one.
            self._log.tidy(set(self.schema.passive) - engagements(self.home))
        except Exception:
            logger.exception("the journal could not be made smaller; it is tried again")
