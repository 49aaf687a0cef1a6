"""The single writer: late, repeated, concurrent and replayed events, on real online stores."""

from __future__ import annotations

import resource
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from feast import FeatureStore
from hypothesis import given
from hypothesis import strategies as st
from tests.online_events import (
    SCHEMA,
    T0,
    NewWriter,
    backfill,
    event,
    history_of,
    ids,
    wait_until,
)
from tests.online_log import empty_tables, filled, mark_online
from tests.redis_server import RedisServer

from interactrank.features.schema import HISTORY_LENGTH, FeatureSchema
from interactrank.features.text import query_code
from prerank.core.errors import DataError
from prerank.core.home import Home
from prerank.online.history import NO_HISTORY, History, merged
from prerank.online.journal import Journal, replay
from prerank.online.logs import acknowledged_events
from prerank.online.sentinel import read_sentinel, write_sentinel
from prerank.online.store import REDIS_ENV
from prerank.online.writer import HistoryWriter, writer_of


def entries(*rows: tuple[int, int, int, int, int]) -> History:
    """A history of (item, action, time, event id, query)."""
    return History(*np.array(rows, np.int64).reshape(-1, 5).T)


@pytest.fixture
def writer(store: FeatureStore, new_writer: NewWriter) -> HistoryWriter:
    return new_writer(store)


def test_an_event_is_read_back_with_its_action_and_time(
    writer: HistoryWriter, store: FeatureStore
) -> None:
    written = writer.write([event(1, action="save")])
    assert (written.accepted, written.passive, written.online) == (1, 0, True)
    assert history_of(store) == entries((101, 2, T0 + 1, 1, 0))


def test_a_late_event_takes_its_place_and_loses_nothing(
    writer: HistoryWriter, store: FeatureStore
) -> None:
    writer.write([event(1), event(5)])
    writer.write([event(3)])
    assert ids(store) == [1, 3, 5]


def test_a_repeated_event_counts_once(writer: HistoryWriter, store: FeatureStore) -> None:
    writer.write([event(1), event(1), event(2)])
    writer.write([event(1)])
    writer.write([replace(event(2), time=T0 + 99)])
    assert ids(store) == [1, 2]


def test_only_the_last_events_by_time_are_kept(writer: HistoryWriter, store: FeatureStore) -> None:
    writer.write([event(n) for n in range(50, 50 + HISTORY_LENGTH)])
    writer.write([event(1)])
    assert ids(store) == list(range(50, 50 + HISTORY_LENGTH))
    writer.write([event(1_000)])
    assert ids(store) == [*range(51, 50 + HISTORY_LENGTH), 1_000]


def test_passive_events_are_acknowledged_but_no_history(
    writer: HistoryWriter, store: FeatureStore
) -> None:
    written = writer.write([event(1, action="impression")])
    assert (written.accepted, written.passive) == (1, 1)
    assert ids(store) == []


def test_an_unknown_action_refuses_the_whole_batch(
    writer: HistoryWriter, store: FeatureStore
) -> None:
    with pytest.raises(DataError, match="click"):
        writer.write([event(1), event(2, action="zap")])
    assert ids(store) == []


def test_an_empty_batch_is_nothing(writer: HistoryWriter) -> None:
    assert writer.write([]).accepted == 0


def test_concurrent_callers_lose_no_event(writer: HistoryWriter, store: FeatureStore) -> None:
    batches = [[event(10 * n + i, user=f"user {i}") for i in range(4)] for n in range(24)]
    with ThreadPoolExecutor(8) as threads:
        written = list(threads.map(writer.write, batches))
    assert sum(w.accepted for w in written) == 96
    for i in range(4):
        assert ids(store, f"user {i}") == [10 * n + i for n in range(24)]


def test_a_restart_replays_the_journal(
    home: Home, embedded: FeatureStore, new_writer: NewWriter
) -> None:
    # As it was written before there were segments.
    journal = Journal(home.journal / "writer-000.jsonl")
    journal.append([asdict(event(1)), asdict(event(2))])
    with journal.path.open("ab") as file:
        file.write(b'{"user_id": "ann", "item')
    with new_writer(embedded) as writer:
        assert writer.replay() == 2
        assert ids(embedded) == [1, 2]
        assert writer.replay() == 0
        checkpoint = next(home.feast.glob("replayed-*.json"))
        before = checkpoint.read_bytes()
        writer.write([event(3)])
    # A crash leaves the checkpoint where it was.
    checkpoint.write_bytes(before)
    with new_writer(embedded) as writer:
        assert writer.replay() == 1
    assert ids(embedded) == [1, 2, 3]


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"writer-000.jsonl": null}'])
def test_a_damaged_checkpoint_means_that_nothing_was_merged(
    home: Home, embedded: FeatureStore, new_writer: NewWriter, content: bytes
) -> None:
    with new_writer(embedded) as writer:
        writer.write([event(1)])
    next(home.feast.glob("replayed-*.json")).write_bytes(content)
    with new_writer(embedded) as writer:
        assert writer.replay() == 1


def test_a_checkpoint_is_one_stores_and_its_name_tells_no_secret(
    home: Home, embedded: FeatureStore, new_writer: NewWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = RedisServer(home.root, "--requirepass", "hunter2")
    try:
        server.start(password="hunter2")
        monkeypatch.setenv(REDIS_ENV, f"{server.address},db=2,password=hunter2")
        new_writer(embedded).close()
    finally:
        server.kill()
    (path,) = home.feast.glob("replayed-*")
    place = f"redis-127.0.0.1-{server.port}-db2"
    assert path.name == f"replayed-{embedded.project}-{place}-0-of-1.json"


def test_another_number_of_writers_replays_every_journal(
    home: Home, store: FeatureStore, new_writer: NewWriter
) -> None:
    users = [f"user {i}" for i in range(12)]
    with new_writer(store) as writer:
        writer.write([event(i, user=u) for i, u in enumerate(users)])
    for shard in range(3):
        assert new_writer(store, shard, 3).replay() == 12
    assert all(ids(store, u) == [i] for i, u in enumerate(users))
    assert {writer_of(u, 3) for u in users} == {0, 1, 2}


def test_a_disk_that_refuses_acknowledges_nothing(
    embedded: FeatureStore, new_writer: NewWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> int:
        raise OSError("no space left")

    writer = new_writer(embedded)
    monkeypatch.setattr(Journal, "append", full)
    with pytest.raises(OSError, match="no space"):
        writer.write([event(1)])
    assert ids(embedded) == []


def test_a_disk_that_is_full_for_a_while_loses_nothing_acknowledged(
    home: Home, embedded: FeatureStore, new_writer: NewWriter
) -> None:
    """The kernel refuses: no file of this process may grow beyond the journal's length."""
    writer = new_writer(embedded)
    writer.write([event(1)])
    (journal,) = home.journal.glob("writer-*.jsonl")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Room for the beginning of a record: what is written of it must not count.
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.stat().st_size + 10, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            writer.write([event(2)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    writer.write([event(3)])
    assert [e.event_id for batch in acknowledged_events(home) for e in batch] == [1, 3]
    wait_until(lambda: ids(embedded) == [1, 3], "the writer stayed behind")


def test_a_backfill_over_live_events_forgets_none(
    home: Home, store: FeatureStore, writer: HistoryWriter
) -> None:
    writer.write([event(9)])
    old = entries((101, 1, T0 + 1, 1, 7), (102, 1, T0 + 2, 2, 0))
    backfill(home, store).merge_histories({"ann": old})
    assert ids(store) == [1, 2, 9]


def test_a_repeat_tells_the_query_that_the_first_telling_left_out(
    writer: HistoryWriter, store: FeatureStore
) -> None:
    told = replace(event(1), query="red shoe")
    for said in (event(1), told, event(1)):
        writer.write([said])
    history = history_of(store)
    assert history == History.of([told], {"click": 1})
    assert history.queries.tolist() == [query_code("red shoe")] != [0]


def test_a_history_from_before_queries_were_kept_is_read_and_learns_them(
    writer: HistoryWriter, store: FeatureStore, online_store: str
) -> None:
    if online_store != "sqlite":
        pytest.skip("takes the field out of the file of an embedded store")
    told = replace(event(1), query="red shoe")
    writer.write([told])
    with sqlite3.connect(store.config.online_store.path) as db:
        table = f"{store.project}_{SCHEMA.history_view}"
        gone = db.execute(f"DELETE FROM {table} WHERE feature_name = 'queries'")
        assert gone.rowcount == 1
    history = history_of(store)
    assert (history.event_ids.tolist(), history.queries.tolist()) == ([1], [0])
    writer.write([told])
    assert history_of(store) == History.of([told], {"click": 1})


# Its codes differ from SCHEMA's: save is 3 here and 2 there; a code of one is no code of the other.
NEXT = FeatureSchema(("buy", "click", "impression", "save"), ("impression",), ("engagement",))


def codes(store: FeatureStore, of: FeatureSchema) -> list[str]:
    return [of.actions[code] for code in history_of(store, schema=of).actions.tolist()]


def test_an_event_enters_the_history_of_each_schema_online_under_its_code_there(
    home: Home, writer: HistoryWriter, store: FeatureStore
) -> None:
    writer.write([event(1, action="click")])
    empty_tables(home, NEXT)
    filled(home, SCHEMA, NEXT)
    # The writer runs on: it takes up the schema, and an action that only this one knows.
    written = writer.write([event(2, action="save"), event(3, action="buy")])
    assert (written.accepted, written.passive, written.online) == (2, 0, True)
    assert codes(store, SCHEMA) == ["click", "save"]
    assert codes(store, NEXT) == ["save", "buy"]
    # What was acknowledged before it came online is in the journal.
    backfill(home, store, NEXT).merge_journal()
    assert codes(store, NEXT) == ["click", "save", "buy"]
    assert codes(store, SCHEMA) == ["click", "save"]


def test_schemas_with_the_same_codes_share_histories_and_others_do_not() -> None:
    same = replace(SCHEMA, segments=("country",), retriever=("rank",), heads=("save",))
    assert same.hash() != SCHEMA.hash()
    assert same.engagement_view != SCHEMA.engagement_view
    assert same.history_view == SCHEMA.history_view
    shifted = replace(SCHEMA, actions=("click", "impression", "save"))
    fewer = replace(SCHEMA, passive=("impression", "click"))
    assert len({s.history_view for s in (SCHEMA, NEXT, shifted, fewer)}) == 4


def test_nothing_online_is_acknowledged_and_comes_online_with_the_features(
    home: Home, store: FeatureStore, new_writer: NewWriter
) -> None:
    home.materialised_of(SCHEMA.hash()).unlink()
    writer = new_writer(store)
    written = writer.write([event(1)])
    assert (written.accepted, written.online) == (1, False)
    backfill(home, store).merge_journal()
    assert ids(store) == [1]
    mark_online(home, SCHEMA)
    wait_until(lambda: writer.write([event(2)]).online, "the writer did not see what is online")
    assert ids(store) == [1, 2]


def test_a_store_that_is_not_what_was_materialised_is_not_written_to(
    home: Home, store: FeatureStore, new_writer: NewWriter
) -> None:
    writer = new_writer(store)
    assert writer.write([event(1)]).online
    whole = read_sentinel(store, SCHEMA.engagement_view)
    assert whole is not None
    # Filled for another state of the home: of another copy, or while `materialise` starts over.
    for other in (replace(whole, epoch="another"), replace(whole, epoch="another", filled=False)):
        write_sentinel(store, SCHEMA.engagement_view, other)
        assert not writer.write([event(2)]).online
        assert ids(store) == [1]
    write_sentinel(store, SCHEMA.engagement_view, replace(whole, filled=False))
    wait_until(lambda: ids(store) == [1, 2], "what is filled for this state takes live events")


def test_merging_is_independent_of_order() -> None:
    rows = [(1, 1, t, n, 7) for n, t in enumerate((5, 3, 3, 9))]
    whole = merged(entries(*rows), NO_HISTORY)
    assert whole == merged(NO_HISTORY, entries(*rows[::-1]))
    assert whole == merged(entries(*rows[:2]), entries(*rows[1:]))
    assert whole.event_ids.tolist() == [1, 2, 0, 3]


Entry = tuple[int, int, int, int, int]


def plainly_merged(current: list[Entry], new: list[Entry]) -> list[Entry]:
    by_id: dict[int, Entry] = {}
    for entry in (*current, *new):
        known = by_id.setdefault(entry[3], entry)
        if entry[4] and not known[4]:
            by_id[entry[3]] = entry
    return sorted(by_id.values(), key=lambda e: (e[2], e[3]))[-HISTORY_LENGTH:]


ENTRIES = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(0, 2),
        st.integers(0, 9),
        st.one_of(st.integers(0, 9), st.integers(-(2**63), 2**63 - 1)),
        st.sampled_from([0, 0, 7, 8]),
    ),
    max_size=130,
)


@given(ENTRIES, ENTRIES)
def test_merging_columns_is_merging_entry_by_entry(current: list[Entry], new: list[Entry]) -> None:
    found = merged(entries(*current), entries(*new))
    assert found == entries(*plainly_merged(current, new))


def test_a_journal_survives_a_torn_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    journal.append([{"n": 1}])
    with journal.path.open("ab") as file:
        file.write(b'{"n": 2')
    with journal.path.open("rb") as file:
        assert [batch for batch, _ in replay(file)] == [[{"n": 1}]]
    end = journal.append([{"n": 3}])
    with journal.path.open("rb") as file:
        assert [r["n"] for batch, _ in replay(file) for r in batch] == [1, 3]
        assert list(replay(file, end)) == []
    assert end == journal.path.stat().st_size
