"""Events of a small schema, and what is online of them."""

from __future__ import annotations

import time
from collections.abc import Callable

from feast import FeatureStore

from interactrank.features.schema import FeatureSchema
from prerank.online.history import Event, read_histories
from prerank.online.writer import HistoryWriter

SCHEMA = FeatureSchema(("impression", "click", "save"), ("impression",), ("engagement",))
NewWriter = Callable[..., HistoryWriter]
"""(store, shard=0, shards=1, **how) -> a writer that is closed at the test's end."""
T0 = 1_700_000_000_000_000


def event(n: int, user: str = "ann", action: str = "click", time: int | None = None) -> Event:
    return Event(user, 100 + n, action, T0 + n if time is None else time, n)


def ids(store: FeatureStore, user: str = "ann") -> list[int]:
    """Ids of a user's online events, oldest first."""
    return read_histories(store, [user])[user].event_ids.tolist()


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Wait for what a background thread does; a minute is a failure, not a measure."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
