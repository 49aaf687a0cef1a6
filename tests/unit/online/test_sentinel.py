"""A store that lost its data is never answered from with confidence, and is filled anew."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis
from tests.online_events import wait_until
from tests.small_tables import CUTOFF, HOUR, NEXT, QUERY, SCHEMA, USER, write_tables

from interactrank.features.schema import FeatureSchema
from prerank.core.errors import StateError
from prerank.core.files import write_json
from prerank.core.home import Home
from prerank.online.history import Event, History, read_histories
from prerank.online.materialise import materialise
from prerank.online.merging import OnlineHistories
from prerank.online.reader import OnlineFeatures, OnlineRead
from prerank.online.sentinel import read_sentinel, write_sentinel
from prerank.online.store import REDIS_ENV, open_store
from prerank.online.writer import HistoryWriter

NOW = CUTOFF + HOUR


@pytest.fixture
def home(
    tmp_path: Path,
    online_store: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Home:
    """Small tables that are online, in a store of its own."""
    if online_store == "redis":
        monkeypatch.setenv(REDIS_ENV, request.getfixturevalue("new_redis")())
    home = Home.at(tmp_path / "home")
    write_tables(home)
    materialise(home, progress=False)
    return home


def redis_of_environment() -> Redis:
    address, db = os.environ[REDIS_ENV].split(",db=")
    host, port = address.split(":")
    return Redis(host, int(port), int(db))


def lose(home: Home, share: float) -> None:
    """Delete rows behind the store's back: all, or a share of those that are not the sentinel.

    The journal stays, in Redis too: what of it is lost with a Redis that kept nothing on disk is
    for nobody to bring back.
    """
    spared = b"_sentinel" if share < 1 else b"\0nothing"
    draw = random.Random(1).random
    if os.environ.get(REDIS_ENV):
        with closing(redis_of_environment()) as client:
            rows = (key for key in client.scan_iter() if b":journal:" not in key)
            client.delete(*(key for key in rows if spared not in key and draw() < share))
        return
    with closing(sqlite3.connect(home.feast / "online.db")) as db:
        tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            keys = db.execute(f"SELECT DISTINCT entity_key FROM {table}").fetchall()
            gone = [key for key in keys if spared not in key[0] and draw() < share]
            db.executemany(f"DELETE FROM {table} WHERE entity_key = ?", gone)
        db.commit()


def reader(home: Home, schema: FeatureSchema = SCHEMA) -> OnlineFeatures:
    """With patience: the time-out is not what is tested here, and the machine may be busy."""
    return OnlineFeatures(home, schema, timeout_s=10.0)


def read(online: OnlineFeatures) -> OnlineRead:
    return online.read(QUERY, USER, NOW)


def assert_whole(online: OnlineFeatures) -> None:
    online.look()
    found = read(online)
    assert found.degraded == ()
    assert online.problem == ""
    assert (found.inputs.key_block >= 0).any()
    assert len(found.inputs.hist_items) == 1


def test_a_store_as_it_was_filled_is_whole(home: Home) -> None:
    assert_whole(reader(home))


def test_an_emptied_store_is_said_by_the_very_next_answer(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    online = reader(home)
    assert read(online).degraded == ()
    lose(home, 1.0)
    assert "online_store" in read(online).degraded
    online.look()
    assert "no sentinel" in online.problem
    assert "prerank materialise" in online.problem
    materialise(home)
    assert "filled anew: the online store has no sentinel" in capsys.readouterr().out
    assert_whole(online)


def test_an_emptied_store_takes_no_histories_and_does_not_look_well(home: Home) -> None:
    online = reader(home)
    lose(home, 1.0)
    with HistoryWriter(home, open_store(home), SCHEMA) as writer:
        written = writer.write([Event(USER, 8, "click", CUTOFF + 1, 77)])
        assert (written.accepted, written.online) == (1, False)
        found = read(online)
        assert len(found.inputs.hist_items) == 0
        assert "online_store" in found.degraded
        materialise(home, progress=False)
        wait_until(lambda: len(read(online).inputs.hist_items) == 2, "the event came online")


def test_rows_that_were_lost_beside_the_sentinel_are_noticed(home: Home) -> None:
    online = reader(home)
    lose(home, 0.5)
    online.look()
    assert "online_store" in read(online).degraded
    assert "engagement rows" in online.problem
    assert "histories" in online.problem
    online.look()
    assert "online_store" in read(online).degraded, "once seen, it stays said until it is mended"
    materialise(home, progress=False)
    assert_whole(online)


def test_acknowledged_events_come_back_with_the_rows(home: Home) -> None:
    store = open_store(home)
    with HistoryWriter(home, store, SCHEMA) as writer:
        writer.write([Event("newcomer", 8, "click", CUTOFF + 1, 77)])
    lose(home, 1.0)
    materialise(home, progress=False)
    assert read_histories(store, SCHEMA.history_view, ["newcomer"])[
        "newcomer"
    ].event_ids.tolist() == [77]


def test_a_filling_that_broke_off_is_said_and_starts_over(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = reader(home)
    lose(home, 1.0)

    def killed(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(OnlineHistories, "merge_histories", killed)
        with pytest.raises(KeyboardInterrupt):
            materialise(home, progress=False)
    assert (read(online).inputs.key_block >= 0).any(), "the rows are there, the histories are not"
    assert "online_store" in read(online).degraded
    online.look()
    assert "broke off" in online.problem
    materialise(home, progress=False)
    assert_whole(online)


def test_a_store_of_an_older_state_is_said_and_starts_over(
    home: Home, tmp_path: Path, online_store: str
) -> None:
    if online_store != "sqlite":
        pytest.skip("puts back the file of an embedded store")
    older = tmp_path / "older.db"
    with (
        closing(sqlite3.connect(home.feast / "online.db")) as live,
        closing(sqlite3.connect(older)) as copy,
    ):
        live.backup(copy)
    write_tables(home, last_cutoff_us=CUTOFF + HOUR)
    assert materialise(home, progress=False)["until_us"] == CUTOFF + HOUR
    for name in ("online.db", "online.db-wal", "online.db-shm"):
        (home.feast / name).unlink(missing_ok=True)
    shutil.copy(older, home.feast / "online.db")
    online = reader(home)
    assert "online_store" in read(online).degraded
    online.look()
    assert "older than" in online.problem
    materialise(home, progress=False)
    assert_whole(reader(home))


def test_a_store_that_another_home_filled_is_said_and_starts_over(home: Home) -> None:
    store, online = open_store(home), reader(home)
    own = read_sentinel(store, SCHEMA.engagement_view)
    assert own is not None
    write_sentinel(store, SCHEMA.engagement_view, replace(own, epoch="of another home"))
    assert "online_store" in read(online).degraded
    online.look()
    assert "another home" in online.problem
    materialise(home, progress=False)
    assert_whole(online)


def test_a_whole_store_goes_on_and_is_never_said_to_be_filled_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = reader(home)
    write_tables(home, fingerprint="two", last_cutoff_us=CUTOFF + HOUR)
    seen: list[tuple[str, ...]] = []
    merge = OnlineHistories.merge_histories

    def watched(self: OnlineHistories, *args: object) -> None:
        seen.append(read(online).degraded)
        merge(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(OnlineHistories, "merge_histories", watched)
    before = home.read_json(home.materialised_of(SCHEMA.hash()), "")["epoch"]
    assert materialise(home, progress=False)["epoch"] == before
    assert set(seen) == {()}
    assert_whole(online)


def test_a_state_that_no_version_with_epochs_wrote_is_filled_anew(home: Home) -> None:
    state = home.read_json(home.materialised_of(SCHEMA.hash()), "")
    for name in ("epoch", "probes", "evictions"):
        del state[name]
    write_json(home.materialised_of(SCHEMA.hash()), state)
    online = reader(home)
    assert "online_store" in read(online).degraded
    materialise(home, progress=False)
    assert_whole(online)


def test_a_whole_store_still_cannot_go_back(home: Home) -> None:
    with pytest.raises(StateError, match="cannot forget"):
        materialise(home, CUTOFF - 1, progress=False)


@pytest.fixture
def two_schemas(home: Home) -> Home:
    """The log was replaced by one of another schema; a model version needs the first one."""
    write_json(home.models / "1" / "model.json", {"schema_hash": SCHEMA.hash()})
    write_tables(home, NEXT)
    materialise(home, progress=False)
    return home


def epoch(home: Home, schema: FeatureSchema) -> str:
    return str(home.read_json(home.materialised_of(schema.hash()), "")["epoch"])


def test_each_schema_that_is_online_has_a_sentinel_of_its_own(two_schemas: Home) -> None:
    home, store = two_schemas, open_store(two_schemas)
    first, second = epoch(home, SCHEMA), epoch(home, NEXT.schema)
    assert first != second
    online, live = reader(home, NEXT.schema), reader(home)
    assert_whole(live)
    assert_whole(online)
    own = read_sentinel(store, NEXT.schema.engagement_view)
    assert own is not None
    write_sentinel(store, NEXT.schema.engagement_view, replace(own, filled=False))
    assert read(online).degraded == ("online_store",)
    assert_whole(live)
    materialise(home, progress=False)
    assert_whole(online)
    assert epoch(home, SCHEMA) == first, "what is whole is not filled again"
    assert epoch(home, NEXT.schema) != second


def test_a_store_that_lost_its_data_is_filled_for_every_schema_that_is_needed(
    two_schemas: Home,
) -> None:
    home, store = two_schemas, open_store(two_schemas)
    event = Event("newcomer", 8, "click", CUTOFF + 1, 77)
    with HistoryWriter(home, store, SCHEMA) as writer:
        writer.write([event])
    readers = [reader(home), reader(home, NEXT.schema)]
    lose(home, 1.0)
    for online in readers:
        assert "online_store" in read(online).degraded
    materialise(home, progress=False)
    for online in readers:
        assert_whole(online)
    for schema in (SCHEMA, NEXT.schema):
        history = read_histories(store, schema.history_view, ["newcomer"])["newcomer"]
        assert history == History.of([event], schema.history_codes)


def test_after_another_schema_was_materialised_the_way_back_is_whole(two_schemas: Home) -> None:
    home = two_schemas
    write_tables(home)
    materialise(home, progress=False)
    assert_whole(reader(home))
    assert list(home.feast.glob("materialised-*.json")) == [home.materialised_of(SCHEMA.hash())]
