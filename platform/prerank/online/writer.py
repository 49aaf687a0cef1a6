"""Engagement events into users' online histories: one writer a user, and a journal.

An event is acknowledged when it stands in a synced journal; the journal is replayed at restart.
Merging is by event id, so an event that is repeated or replayed counts once, and by event time, so
a late event takes its place among the older ones and a newer state is never lost. Whatever is
written online is the whole merged history, since SQLite lets the last write win, old or new.

Several schemas may be online, of the live model and of the next: an event enters the histories of
each, under the code that its action has there.

A user belongs to one of N writers (``writer_of``); a back-fill shares their lock, so two
processes never read, merge and write the same user at once. The lock is a file's: on several hosts
it needs a file system that honours ``flock``.

Callers that arrive while a batch is being written wait and are then written together, in one sync
and one push.
"""

from __future__ import annotations

import fcntl
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import xxhash
from feast import FeatureStore
from feast.data_source import PushMode

from interactrank.features.schema import FeatureSchema
from prerank.core.errors import DataError
from prerank.core.feature_sets import online_states
from prerank.core.files import write_json
from prerank.core.home import Home
from prerank.online.history import (
    Event,
    History,
    HistoryTable,
    as_frame,
    merged,
    online_tables,
    read_histories,
)
from prerank.online.journal import Journal, replay
from prerank.online.store import online_name

CHECKPOINT_EVERY = 256

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


@dataclass
class _Ticket:
    """A caller's batch, waiting to be written."""

    events: Sequence[Event]
    online: bool | None = None
    error: BaseException | None = None


@dataclass
class HistoryWriter:
    """The writer of one shard of users.

    Args:
        home: holds the journal.
        store: Feast's store, applied.
        schema: of the log; passive actions are acknowledged and journaled, but no history.
        shard, shards: which users are this writer's.
        exclusive: a back-fill, which writes everybody's histories of ``schema`` alone.
    """

    home: Home
    store: FeatureStore
    schema: FeatureSchema
    shard: int = 0
    shards: int = 1
    exclusive: bool = False
    _views: frozenset[str] = field(default=frozenset(), init=False)
    _pending: list[Event] = field(default_factory=list, init=False)
    _queue: list[_Ticket] = field(default_factory=list, init=False)
    _queue_lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _commits: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._journal = Journal(self.home.journal / f"writer-{self.shard:03d}.jsonl")
        self._lock_path = self.home.feast / "history.lock"
        store = f"{self.store.project}-{online_name()}"
        name = f"replayed-{store}-{self.shard}-of-{self.shards}.json"
        # In Feast's folder: a new online store has no checkpoint, so everything is replayed to it.
        self._checkpoint = self.home.feast / name

    @classmethod
    def backfill(cls, home: Home, store: FeatureStore, schema: FeatureSchema) -> HistoryWriter:
        """A writer for every user, which keeps the live writers out batch by batch."""
        return cls(home, store, schema, exclusive=True)

    def write(self, events: Sequence[Event]) -> Written:
        """Acknowledge ``events`` and merge them into their users' histories.

        Raises:
            DataError: an action is unknown; nothing of the batch was written.
            OSError: the journal cannot be written; nothing is acknowledged.
        """
        for action in {e.action for e in events}.difference(self.schema.actions):
            # A schema that came online since this writer started may know it.
            if all(action not in s["schema"]["actions"] for s in online_states(self.home)):
                raise DataError(f"action {action!r} is unknown: {list(self.schema.actions)}")
        ticket = _Ticket(events)
        with self._queue_lock:
            self._queue.append(ticket)
        with self._lock:
            if ticket.online is None and ticket.error is None:
                with self._queue_lock:
                    waiting, self._queue = self._queue, []
                self._commit(waiting)
        if ticket.error is not None:
            raise ticket.error
        passive = sum(e.action in self.schema.passive for e in events)
        return Written(len(events), passive, bool(ticket.online))

    def replay(self) -> int:
        """Merge what the journals hold beyond the last checkpoint; number of events read.

        Every journal is read: the number of writers, and so a user's writer, may have changed. A
        back-fill reads them from the start and leaves the live writers' checkpoints alone.
        """
        with self._lock:
            known = self._checkpoint.exists() and not self.exclusive
            done = self.home.read_json(self._checkpoint, "") if known else {}
            count, ends = 0, {}
            for path in sorted(self.home.journal.glob("writer-*.jsonl")):
                for batch, end in replay(path, int(done.get(path.name, 0))):
                    events = [Event(**r) for r in batch]
                    mine = [e for e in events if writer_of(e.user_id, self.shards) == self.shard]
                    self._merge_events(mine)
                    count += len(events)
                    ends[path.name] = end
            if not self.exclusive:
                write_json(self._checkpoint, {**done, **ends})
        return count

    def merge_histories(self, histories: Mapping[str, History]) -> None:
        """Merge whole histories, coded as the schema codes them, for a back-fill."""
        with self._lock:
            self._merge(self.schema.history_view, histories)

    def _commit(self, waiting: list[_Ticket]) -> None:
        events = [e for ticket in waiting for e in ticket.events]
        try:
            end = self._journal.append([asdict(e) for e in events])
        except BaseException as error:
            for ticket in waiting:
                ticket.error = error
            return
        self._pending += events
        try:
            online = self._merge_events(self._pending)
            self._pending = []
        except Exception:
            # Acknowledged all the same: the journal has it, the next batch or restart retries.
            logger.exception("history push failed; %d events wait", len(self._pending))
            online = False
        for ticket in waiting:
            ticket.online = online
        self._commits += 1
        if online and self._commits % CHECKPOINT_EVERY == 0:
            done = self.home.read_json(self._checkpoint, "") if self._checkpoint.exists() else {}
            write_json(self._checkpoint, {**done, self._journal.path.name: end})

    def _merge_events(self, events: Sequence[Event]) -> bool:
        """Merge ``events`` into every history that is online; whether there is any."""
        tables = self._tables()
        for table in tables:
            self._merge(table.view, table.histories(events))
        return bool(tables)

    def _tables(self) -> list[HistoryTable]:
        if self.exclusive:
            return [HistoryTable.of(self.schema)]
        tables = online_tables(self.home)
        views = frozenset(table.view for table in tables)
        if not views <= self._views:
            # An open store would learn of new views a minute late.
            self.store.refresh_registry()
        self._views = views
        return tables

    def _merge(self, view: str, new: Mapping[str, History]) -> None:
        """Read, merge and write the histories of some users; repeats write nothing."""
        if not new:
            return
        with self._shared_with_backfill():
            before = read_histories(self.store, view, list(new))
            after = {user: merged(before[user], told) for user, told in new.items()}
            rows = {user: h for user, h in after.items() if len(h) and h != before[user]}
            if rows:
                self.store.push(f"{view}_push", as_frame(rows), to=PushMode.ONLINE)

    @contextmanager
    def _shared_with_backfill(self) -> Iterator[None]:
        # Live writers have disjoint users and share the lock; a back-fill has everybody's.
        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock_path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX if self.exclusive else fcntl.LOCK_SH)
            yield
