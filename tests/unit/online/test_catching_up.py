"""A writer that is behind its journal: the store was away, or the writer has just begun."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from feast import FeatureStore
from tests.online_events import NewWriter, event, ids, wait_until

from prerank.core.errors import NotReadyError
from prerank.online.journal import REPLAY_BATCH

Away = Callable[[], list[int]]


class Flaky:
    """A store's ``push`` that fails while the store is away."""

    def __init__(self, store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.away, self.rows = False, list[int]()
        self._push = store.push
        monkeypatch.setattr(store, "push", self)

    def __call__(self, source: str, frame: Any, **how: Any) -> None:
        self.rows.append(len(frame))
        if self.away:
            raise ConnectionError("the store is away")
        self._push(source, frame, **how)


@pytest.fixture
def flaky(embedded: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> Flaky:
    return Flaky(embedded, monkeypatch)


def test_what_was_acknowledged_while_the_store_was_away_comes_online_without_another_event(
    store: FeatureStore, new_writer: NewWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    flaky = Flaky(store, monkeypatch)
    writer = new_writer(store)
    flaky.away = True
    assert [writer.write([event(n)]).online for n in (1, 2, 3)] == [False] * 3
    flaky.away = False
    wait_until(lambda: ids(store) == [1, 2, 3], "the quiet shard stayed stale")
    wait_until(lambda: writer.write([event(4)]).online, "the writer stayed behind")


def test_while_the_store_is_away_a_call_neither_pushes_nor_gathers_what_waits(
    embedded: FeatureStore, flaky: Flaky, new_writer: NewWriter
) -> None:
    users = [f"user {n}" for n in range(2 * REPLAY_BATCH + 100)]
    writer = new_writer(embedded)
    flaky.away = True
    for start in range(0, len(users), 100):
        batch = users[start : start + 100]
        assert not writer.write([event(start + i, u) for i, u in enumerate(batch)]).online
    # The background thread tried meanwhile: never more than a batch of the journal at once.
    flaky.away = False
    wait_until(lambda: ids(embedded, users[-1]) != [], "the writer stayed behind")
    assert all(ids(embedded, users[n]) == [n] for n in (0, 99, 100, REPLAY_BATCH, len(users) - 1))
    assert max(flaky.rows) <= REPLAY_BATCH
    assert sum(flaky.rows) < 20 * len(users)


def test_close_ends_the_background_thread_and_nothing_is_lost(
    embedded: FeatureStore, flaky: Flaky, new_writer: NewWriter
) -> None:
    before = set(threading.enumerate())
    with new_writer(embedded) as writer:
        flaky.away = True
        writer.write([event(1)])
        assert set(threading.enumerate()) > before
    assert set(threading.enumerate()) <= before
    with pytest.raises(NotReadyError, match="closed"):
        writer.write([event(2)])
    flaky.away = False
    with new_writer(embedded) as writer:
        assert writer.replay() == 1
    assert ids(embedded) == [1]


def test_a_started_writer_goes_level_with_the_journals_of_before(
    embedded: FeatureStore, flaky: Flaky, new_writer: NewWriter
) -> None:
    with new_writer(embedded) as writer:
        flaky.away = True
        writer.write([event(1)])
    with new_writer(embedded) as writer:
        writer.start()
        # Acknowledged before the store is back, and before what came first is online.
        assert not writer.write([event(2)]).online
        flaky.away = False
        wait_until(lambda: ids(embedded) == [1, 2], "the started writer stayed behind")


def test_a_checkpoint_covers_nothing_that_was_not_merged(
    embedded: FeatureStore, flaky: Flaky, new_writer: NewWriter
) -> None:
    with new_writer(embedded) as writer:
        flaky.away = True
        writer.write([event(1)])
    flaky.away = False
    # This one writes before it has read what the other left.
    with new_writer(embedded) as writer:
        writer.write([event(2)])
    with new_writer(embedded) as writer:
        writer.replay()
    assert ids(embedded) == [1, 2]


def test_callers_while_a_writer_catches_up_lose_nothing(
    embedded: FeatureStore, flaky: Flaky, new_writer: NewWriter
) -> None:
    writer = new_writer(embedded)
    flaky.away = True
    writer.write([event(0)])

    def send(first: int) -> None:
        for n in range(first, 40, 4):
            writer.write([event(n)])

    callers = [threading.Thread(target=send, args=(first,)) for first in range(1, 5)]
    for caller in callers:
        caller.start()
    flaky.away = False
    for caller in callers:
        caller.join(60)
    wait_until(lambda: writer.write([]).online, "the writer stayed behind")
    assert ids(embedded) == list(range(40))
