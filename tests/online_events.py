"""Events of a small schema, and what is online of them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from feast import FeatureStore

from interactrank.features.schema import FeatureSchema
from prerank.core.home import Home
from prerank.online.history import NO_HISTORY, Event, History, HistoryTable, merged, read_histories
from prerank.online.merging import OnlineHistories
from prerank.online.writer import HistoryWriter

SCHEMA = FeatureSchema(("impression", "click", "save"), ("impression",), ("engagement",))
NewWriter = Callable[..., HistoryWriter]
"""(store, shard=0, shards=1, **how) -> a writer that is closed at the test's end."""
T0 = 1_700_000_000_000_000


def event(n: int, user: str = "ann", action: str = "click", time: int | None = None) -> Event:
    return Event(user, 100 + n, action, T0 + n if time is None else time, n)


def replayed(events: Sequence[Event], engagements: Sequence[str]) -> dict[str, History]:
    """What a replay of ``events`` gives, each merged alone."""
    codes = {action: code for code, action in enumerate(engagements)}
    found: dict[str, History] = defaultdict(lambda: NO_HISTORY)
    for e in events:
        if e.action in codes:
            found[e.user_id] = merged(found[e.user_id], History.of([e], codes))
    return dict(found)


def backfill(home: Home, store: FeatureStore, schema: FeatureSchema = SCHEMA) -> OnlineHistories:
    """Everybody's histories, as ``prerank materialise`` writes them."""
    return OnlineHistories(home, store, HistoryTable.of(schema), exclusive=True)


def history_of(store: FeatureStore, user: str = "ann", schema: FeatureSchema = SCHEMA) -> History:
    """A user's online history, oldest event first."""
    return read_histories(store, schema.history_view, [user])[user]


def ids(store: FeatureStore, user: str = "ann", schema: FeatureSchema = SCHEMA) -> list[int]:
    """Ids of a user's online events, oldest first."""
    return history_of(store, user, schema).event_ids.tolist()


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Wait for what a background thread does; a minute is a failure, not a measure."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
