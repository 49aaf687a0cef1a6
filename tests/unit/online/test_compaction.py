"""Journals are rotated and compacted; histories that are replayed from them stay the same."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from feast import FeatureStore
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.online_events import SCHEMA, NewWriter, backfill, event, ids, replayed, wait_until
from tests.online_log import empty_tables, filled

from interactrank.features.schema import HISTORY_LENGTH
from prerank.core.home import Home
from prerank.online.compaction import DAY_S, JournalConfig, compact, is_due
from prerank.online.dead_letters import DeadLetters, path_of
from prerank.online.history import Event, read_histories
from prerank.online.journal import Journal
from prerank.online.records import record_of
from prerank.online.segments import (
    Segments,
    found_segments,
    journaled_events,
    live_segments,
    opened,
    segment_name,
)
from prerank.online.store import REDIS_ENV, apply

USERS = ("ann", "bob", "cy")


def journaled(folder: Path) -> list[Event]:
    return [e for batch in journaled_events(folder) for e in batch]


def compact_all(folder: Path, days: float | None = None) -> None:
    number = max(s.number for s in live_segments(folder)) + 1
    compact(folder, 0, number, SCHEMA.passive, days, DeadLetters(folder))


def append(folder: Path, events: Sequence[Event], acknowledged: float = 1e9) -> None:
    """A segment of its own."""
    Segments(folder, 0, 1 << 20).append([record_of(e, int(acknowledged)) for e in events])


def told(n: int, user: str, action: str, query: str) -> Event:
    # What is told again differs in the query at most, as ids are derived from the rest.
    return replace(event(n, user, action, time=n * 7919 % 1000), query=query)


EVENTS = st.lists(
    st.builds(
        lambda n, user, query: told(n, user, SCHEMA.actions[n % 3], query),
        st.integers(0, 500),
        st.sampled_from(USERS),
        st.sampled_from(["", "", "red shoe", "lamp"]),
    ),
    max_size=60,
)


def many(start: int, count: int) -> list[Event]:
    return [told(n, "ann", SCHEMA.actions[n % 3], "") for n in range(start, start + count)]


@settings(max_examples=20)
@given(st.lists(EVENTS, min_size=1, max_size=4), st.integers(0, 400), st.integers(1, 3))
def test_a_replay_after_compaction_gives_the_same_histories(
    parts: list[list[Event]], busy: int, times: int
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        parts[0] += many(0, busy)
        for part in parts:
            append(folder, part)
        before = journaled(folder)
        for _ in range(times):
            compact_all(folder)
        after = journaled(folder)
        # Whichever actions a schema counts as engagements.
        for engagements in (["click", "save"], ["click"], ["save"]):
            assert replayed(after, engagements) == replayed(before, engagements)
        assert max(Counter((e.user_id, e.action) for e in after).values(), default=0) <= (
            HISTORY_LENGTH
        )
        assert not any(e.action in SCHEMA.passive for e in after)
        assert len({(e.user_id, e.event_id) for e in after}) == len(after)


def test_an_empty_redis_gets_the_same_histories_from_a_compacted_journal(
    home: Home,
    embedded: FeatureStore,
    new_redis: Any,
    new_writer: NewWriter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    config = JournalConfig(segment_bytes=1 << 30)
    events = [event(n, USERS[n % 3], SCHEMA.actions[n % 5 % 3]) for n in range(900)]
    # Written while the home's online store was an embedded one.
    with new_writer(embedded, journal=config) as writer:
        for start in range(0, 900, 90):
            writer.write(events[start : start + 90])
    for compacted in (False, True):
        monkeypatch.setenv(REDIS_ENV, new_redis())
        store = filled(home, SCHEMA)
        if compacted:
            before = sum(s.path.stat().st_size for s in live_segments(home.journal))
            compact_all(home.journal)
            after = sum(s.path.stat().st_size for s in live_segments(home.journal))
            assert after < 0.6 * before
        with new_writer(store, journal=config) as writer:
            writer.replay()
        found.append(read_histories(store, SCHEMA.history_view, USERS))
    assert found[0] == found[1]
    assert len(found[0]["ann"]) == HISTORY_LENGTH


def test_a_started_writer_rotates_and_compacts_and_loses_nothing(
    home: Home, embedded: FeatureStore, new_writer: NewWriter
) -> None:
    config = JournalConfig(segment_bytes=4_000)
    with new_writer(embedded, journal=config) as writer:
        for n in range(6):
            writer.write([event(20 * n + i, action=SCHEMA.actions[i % 2]) for i in range(20)])
        assert len(found_segments(home.journal)) > 1
    with new_writer(embedded, journal=config) as writer:
        writer.start()
        wait_until(
            lambda: [s.compact for s in found_segments(home.journal)] == [True],
            "the journal was not compacted",
        )
        assert writer.write([event(1_000)]).online
    clicks = [n for n in range(120) if n % 2]
    assert sorted(e.event_id for e in journaled(home.journal)) == [*clicks, 1_000]
    with new_writer(embedded, journal=config) as writer:
        assert writer.replay() == 0
    assert ids(embedded) == [*clicks, 1_000]


def test_journals_of_writers_that_are_no_more_are_looked_after(
    home: Home, embedded: FeatureStore, new_writer: NewWriter
) -> None:
    for shard in range(3):
        Journal(home.journal / f"writer-{shard:03d}.jsonl").append([record_of(event(shard), 1)])
    with new_writer(embedded, journal=JournalConfig(days=None)) as writer:
        writer.start()
        wait_until(
            lambda: all(s.compact for s in found_segments(home.journal)),
            "a journal was not compacted",
        )
    assert ids(embedded) == [0, 1, 2]


def test_what_is_older_than_is_allowed_is_removed(tmp_path: Path) -> None:
    now = time.time()
    append(tmp_path, [event(1)], now - 3 * DAY_S)
    append(tmp_path, [event(2)], now - 1 * DAY_S)
    # Written before records told when: no younger than its file.
    legacy = tmp_path / "writer-000.jsonl"
    Journal(legacy).append([dict(vars(event(3)))])
    os.utime(legacy, (now - 3 * DAY_S, now - 3 * DAY_S))
    compact_all(tmp_path, days=None)
    assert sorted(e.event_id for e in journaled(tmp_path)) == [1, 2, 3]
    compact_all(tmp_path, days=2)
    assert [e.event_id for e in journaled(tmp_path)] == [2]
    compact_all(tmp_path, days=0.5)
    assert journaled(tmp_path) == []


def test_compaction_is_due_when_as_much_was_appended_as_is_kept_and_once_a_day(
    tmp_path: Path,
) -> None:
    now, config = time.time(), JournalConfig(segment_bytes=1_000)

    def due(later: float = 0, config: JournalConfig = config) -> bool:
        return is_due(live_segments(tmp_path), config, now + later)

    append(tmp_path, [event(0)])
    assert (due(), due(DAY_S + 60)) == (False, True)
    append(tmp_path, [event(n) for n in range(90)])
    assert due()
    compact_all(tmp_path)
    assert (due(), due(DAY_S + 60)) == (False, True)
    assert not due(DAY_S + 60, JournalConfig(days=None))
    append(tmp_path, [event(n) for n in range(20)])
    assert not due(), "less was appended than is kept"
    append(tmp_path, [event(n) for n in range(90)])
    assert due()


def test_whoever_reads_while_a_journal_is_compacted_sees_every_event_once(tmp_path: Path) -> None:
    for part in range(4):
        append(tmp_path, [event(n) for n in range(part, 100, 4)])
    ended = threading.Event()

    def compact_on() -> None:
        while not ended.is_set():
            compact_all(tmp_path)

    compacting = threading.Thread(target=compact_on)
    compacting.start()
    try:
        for _ in range(50):
            assert sorted(e.event_id for e in journaled(tmp_path)) == list(range(100))
    finally:
        ended.set()
        compacting.join(60)


def test_what_is_no_event_is_set_aside_before_it_is_left_out(tmp_path: Path) -> None:
    Segments(tmp_path, 0, 1 << 20).append(
        [record_of(event(1), 1), {"colour": 1}, {**vars(event(2)), "acknowledged": "today"}]
    )
    compact_all(tmp_path)
    assert [e.event_id for e in journaled(tmp_path)] == [1]
    assert path_of(tmp_path).read_bytes().count(b"reason") == 2


def test_an_open_reader_keeps_what_it_opened(tmp_path: Path) -> None:
    append(tmp_path, [event(n) for n in range(3)])
    with opened(tmp_path) as files:
        compact_all(tmp_path)
        assert [len(file.read().splitlines()) for _, file in files] == [3]


def test_a_crash_at_any_step_of_a_compaction_loses_and_doubles_nothing(tmp_path: Path) -> None:
    append(tmp_path, [event(n) for n in range(4)])
    append(tmp_path, [event(n) for n in range(4, 8)])
    old = {s.path: s.path.read_bytes() for s in found_segments(tmp_path)}
    number = max(s.number for s in found_segments(tmp_path)) + 1
    # Killed while it split the records, and while it wrote the new segment.
    (tmp_path / ".compact-000-killed").mkdir()
    (tmp_path / ".compact-000-killed" / "0.jsonl").write_bytes(b"{")
    target = tmp_path / segment_name(0, number + 1, compact=True)
    target.with_name(f".{target.name}.partial").write_bytes(b'{"user_id": "ann", "it')
    target.with_name(f".{target.name}.{'0' * 32}.tmp").write_bytes(b'{"user_id": "ann", "it')
    assert len(journaled(tmp_path)) == 8
    compact_all(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [segment_name(0, number, compact=True)]
    # Killed before it removed the old segments.
    for path, content in old.items():
        path.write_bytes(content)
    assert sorted(e.event_id for e in journaled(tmp_path)) == list(range(8))
    append(tmp_path, [event(8)])
    compact_all(tmp_path)
    assert len(found_segments(tmp_path)) == 1
    assert sorted(e.event_id for e in journaled(tmp_path)) == list(range(9))


def test_a_disk_that_refuses_leaves_the_journal_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(tmp_path, [event(n) for n in range(4)])
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with monkeypatch.context() as full:

        def refuse(descriptor: int) -> None:
            raise OSError("no space left")

        full.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="no space"):
            compact_all(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_torn_line_at_the_end_of_a_segment_is_not_read_and_the_next_segment_is(
    tmp_path: Path,
) -> None:
    append(tmp_path, [event(1)])
    with found_segments(tmp_path)[0].path.open("ab") as file:
        file.write(b'{"user_id": "ann", "item')
    append(tmp_path, [event(2)])
    assert [e.event_id for e in journaled(tmp_path)] == [1, 2]
    compact_all(tmp_path)
    assert [e.event_id for e in journaled(tmp_path)] == [1, 2]


def test_what_is_exposure_in_one_schema_is_kept_for_another_that_counts_it(
    home: Home, embedded: FeatureStore, new_writer: NewWriter
) -> None:
    other = replace(SCHEMA, passive=("click",))
    config = JournalConfig(segment_bytes=1)
    with new_writer(embedded, journal=config) as writer:
        writer.write([event(n, action=action) for n, action in enumerate(SCHEMA.actions)])
    empty_tables(home, other)
    apply(home)
    with new_writer(embedded, journal=config) as writer:
        writer.start()
        wait_until(
            lambda: [s.compact for s in found_segments(home.journal)] == [True],
            "the journal was not compacted",
        )
    # The other schema comes online: its histories are filled from the journal.
    backfill(home, apply(home), other).merge_journal()
    kept = [n for n, action in enumerate(SCHEMA.actions) if action in other.engagements]
    assert ids(embedded, schema=other) == kept == [0, 2]
