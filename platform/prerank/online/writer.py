"""Engagement events into users' online histories: one writer a user, and a journal.

An event is acknowledged when it stands in a synced journal; the journal is replayed at restart.
Merging is by event id, so an event that is repeated or replayed counts once, and by event time, so
a late event takes its place among the older ones and a newer state is never lost. Whatever is
written online is the whole merged history, since SQLite lets the last write win, old or new.

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import xxhash
from feast import FeatureStore
from feast.data_source import PushMode

from interactrank.features.schema import FeatureSchema
from prerank.core.errors import DataError
from prerank.core.home import Home, write_json
from prerank.online.history import Event, History, as_frame, merged, read_histories
from prerank.online.journal import Journal, replay
from prerank.online.store import online_name

PUSH_SOURCE = "user_history_push"
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
        schema: names the actions; passive ones are acknowledged and journaled, but no history.
        shard, shards: which users are this writer's.
    """

    home: Home
    store: FeatureStore
    schema: FeatureSchema
    shard: int = 0
    shards: int = 1
    exclusive: bool = False
    _codes: dict[str, int] = field(init=False)
    _pending: list[Event] = field(default_factory=list, init=False)
    _queue: list[_Ticket] = field(default_factory=list, init=False)
    _queue_lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _commits: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._codes = {a: self.schema.actions.index(a) for a in self.schema.engagements}
        self._journal = Journal(self.home.journal / f"writer-{self.shard:03d}.jsonl")
        self._lock_path = self.home.feast / "history.lock"
        name = f"replayed-{online_name()}-{self.shard}-of-{self.shards}.json"
        # In Feast's folder: a new online store has no checkpoint, so everything is replayed to it.
        self._checkpoint = self.home.feast / name

    @classmethod
    def backfill(cls, home: Home, store: FeatureStore) -> HistoryWriter:
        """A writer for every user, which keeps the live writers out batch by batch."""
        return cls(home, store, FeatureSchema((), (), ()), exclusive=True)

    def write(self, events: Sequence[Event]) -> Written:
        """Acknowledge ``events`` and merge them into their users' histories.

        Raises:
            DataError: an action is unknown; nothing of the batch was written.
            OSError: the journal cannot be written; nothing is acknowledged.
        """
        for event in events:
            if event.action not in self.schema.actions:
                raise DataError(f"action {event.action!r} is unknown: {list(self.schema.actions)}")
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
        passive = sum(e.action not in self._codes for e in events)
        return Written(len(events), passive, bool(ticket.online))

    def replay(self, anew: bool = False) -> int:
        """Merge what the journals hold beyond the last checkpoint; number of events read.

        Every journal is read: the number of writers, and so a user's writer, may have changed.

        Args:
            anew: read them from their beginning, for a store that is filled from its beginning.
        """
        with self._lock:
            known = self._checkpoint.exists() and not anew
            done = self.home.read_json(self._checkpoint, "") if known else {}
            count, ends = 0, {}
            for path in sorted(self.home.journal.glob("writer-*.jsonl")):
                for batch, end in replay(path, int(done.get(path.name, 0))):
                    events = [Event(**r) for r in batch]
                    mine = [e for e in events if writer_of(e.user_id, self.shards) == self.shard]
                    self._merge(self._histories(mine))
                    count += len(events)
                    ends[path.name] = end
            write_json(self._checkpoint, {**done, **ends})
        return count

    def merge_histories(self, histories: Mapping[str, History]) -> None:
        """Merge whole histories, for a back-fill."""
        with self._lock:
            self._merge(histories)

    def _commit(self, waiting: list[_Ticket]) -> None:
        events = [e for ticket in waiting for e in ticket.events]
        try:
            end = self._journal.append([asdict(e) for e in events])
        except BaseException as error:
            for ticket in waiting:
                ticket.error = error
            return
        online = True
        self._pending += events
        try:
            self._merge(self._histories(self._pending))
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

    def _histories(self, events: Iterable[Event]) -> dict[str, History]:
        """The engagements among ``events``, by user."""
        found: dict[str, list[Event]] = {}
        for e in events:
            # A journal may hold an action that a rebuilt schema no longer knows.
            if e.action in self._codes:
                found.setdefault(e.user_id, []).append(e)
        return {user: History.of(own, self._codes) for user, own in found.items()}

    def _merge(self, new: Mapping[str, History]) -> None:
        """Read, merge and write the histories of some users; repeats write nothing."""
        if not new:
            return
        with self._shared_with_backfill():
            before = read_histories(self.store, list(new))
            after = {user: merged(before[user], told) for user, told in new.items()}
            rows = {user: h for user, h in after.items() if len(h) and h != before[user]}
            if rows:
                self.store.push(PUSH_SOURCE, as_frame(rows), to=PushMode.ONLINE)

    @contextmanager
    def _shared_with_backfill(self) -> Iterator[None]:
        # Live writers have disjoint users and share the lock; a back-fill has everybody's.
        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock_path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX if self.exclusive else fcntl.LOCK_SH)
            yield
