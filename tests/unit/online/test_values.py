"""What is read past Feast's objects is what Feast itself finds, of any store that Feast filled."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore
from feast.errors import FeatureViewNotFoundException
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import given
from hypothesis import strategies as st
from tests.online_events import SCHEMA, backfill, event
from tests.online_log import empty_tables, filled
from tests.redis_server import RedisServer

from prerank.core.errors import ConfigError
from prerank.core.home import Home
from prerank.online import layout
from prerank.online.history import HISTORY_FIELDS, read_histories
from prerank.online.layout import packed_row
from prerank.online.sentinel import KEY, read_rows, wanted_rows
from prerank.online.store import REDIS_ENV
from prerank.online.values import OnlineValues, Wanted

ROWS, HISTORIES = SCHEMA.engagement_view, SCHEMA.history_view
BYTES = {
    "q:red shoe": b"row",
    "q:empty": b"",
    "q:zero": b"\0",
    "q:\u00e9t\u00e9 \u4e2d\u6587 \U0001f45f": b"\n\x03row",
    "t:" + "x" * 127: bytes(range(128)),
    "g:large": random.Random(0).randbytes(300_000),
    **{f"q:{n} bytes": b"x" * n for n in (127, 128, 16_383, 16_384)},
}
MOST = 2**63 - 1
LISTS: dict[str, list[int]] = {
    "ann": [3, 2, 1],
    "one": [0],
    "\u00fcnal \U0001f600": [-MOST - 1, MOST, 0, -1, 127, 128],
    "busy": [7**n for n in range(20)] * 5,
}
ASKED_ROWS = st.lists(st.sampled_from([*BYTES, "q:missing", KEY]) | st.text(), max_size=40)
ASKED_USERS = st.lists(st.sampled_from([*LISTS, "nobody", "0"]) | st.text(), max_size=3)


@pytest.fixture(scope="module")
def store(online_store: str, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    home = Home.at(tmp_path_factory.mktemp(f"values-{online_store}"))
    empty_tables(home, SCHEMA)
    store = filled(home, SCHEMA)
    fill(store)
    return store


def fill(store: FeatureStore) -> None:
    """Write by Feast's own calls; the last of two writes of a key counts, whatever its time."""
    now = pd.Timestamp.now("UTC")
    for stamp, rows in ((now, dict.fromkeys(BYTES, b"first")), (now - pd.Timedelta("9d"), BYTES)):
        frame = pd.DataFrame({"engagement_key": list(rows), "row": list(rows.values())})
        store.write_to_online_store(ROWS, frame.assign(event_timestamp=stamp))
    columns = {name: list(LISTS.values()) for name in HISTORY_FIELDS}
    frame = pd.DataFrame({"user_id": list(LISTS), **columns, "event_timestamp": now})
    store.write_to_online_store(HISTORIES, frame)


def of_feast(store: FeatureStore, wanted: Wanted) -> list[list[Value]]:
    """The same by Feast's public call."""
    if not wanted.keys:
        return []
    entity = "engagement_key" if wanted.view == ROWS else "user_id"
    features = [f"{wanted.view}:{name}" for name in wanted.features]
    answer = store.get_online_features(features, [{entity: k} for k in wanted.keys]).proto
    names = list(answer.metadata.feature_names.val)
    columns = [answer.results[names.index(name)].values for name in wanted.features]
    return [list(row) for row in zip(*columns, strict=True)]


def parsed(values: Sequence[Sequence[bytes | None]]) -> list[list[Value]]:
    return [[Value.FromString(v) if v else Value() for v in row] for row in values]


@given(rows=ASKED_ROWS, users=ASKED_USERS, fields=st.permutations(HISTORY_FIELDS))
def test_what_is_read_is_what_feast_finds(
    store: FeatureStore, rows: list[str], users: list[str], fields: list[str]
) -> None:
    wanted = [Wanted(ROWS, ("row",), rows), Wanted(HISTORIES, fields[:3], users)]
    expected = [of_feast(store, w) for w in wanted]
    values = OnlineValues.of(store)
    for order in ([0, 1], [1, 0], [0, 1, 1, 0]):
        found = values.read([wanted[i] for i in order], time.monotonic() + 60)
        assert [parsed(f) for f in found] == [expected[i] for i in order]


def test_every_row_and_history_that_was_written_is_read(store: FeatureStore) -> None:
    keys, users = [*BYTES, "q:missing"], [*LISTS, "nobody"]
    assert read_rows(store, ROWS, keys) == [*BYTES.values(), b""]
    histories = read_histories(store, HISTORIES, users)
    assert {user: h.times.tolist() for user, h in histories.items()} == LISTS | {"nobody": []}
    assert all(column.dtype == np.int64 for h in histories.values() for column in h.columns)


def test_a_view_that_was_never_applied_is_named(store: FeatureStore) -> None:
    with pytest.raises(FeatureViewNotFoundException, match="no_such_view"):
        OnlineValues.of(store).read([Wanted("no_such_view", ("row",), ["q:red"])])


def test_another_layout_of_keys_is_refused(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def longer(*given: Any) -> bytes:
        return serialize_entity_key(*given) + b"\0"

    monkeypatch.setattr(layout, "serialize_entity_key", longer)
    with pytest.raises(ConfigError, match=r"Feast that is installed.*pyproject"):
        OnlineValues.of(store).layout(ROWS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    server = RedisServer(tmp_path_factory.mktemp("values"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def on_redis(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A store on a server that no other test uses, with a thousand small rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(REDIS_ENV, server.address)
        home = Home.at(tmp_path_factory.mktemp("values-own"))
        empty_tables(home, SCHEMA)
        store = filled(home, SCHEMA)
        keys = [f"q:{n}" for n in range(1_000)]
        frame = pd.DataFrame({"engagement_key": keys, "row": [k.encode() for k in keys]})
        store.write_to_online_store(ROWS, frame.assign(event_timestamp=pd.Timestamp.now("UTC")))
        yield store


def test_several_views_are_one_round_trip(on_redis: FeatureStore, server: RedisServer) -> None:
    values = OnlineValues.of(on_redis)
    keys = [f"q:{n}" for n in range(24)]
    wanted = [wanted_rows(ROWS, keys), Wanted(HISTORIES, HISTORY_FIELDS, ["ann"])]
    values.read(wanted)
    with server.client() as client:

        def requests() -> int:
            """How often the server found something to read; this question is one of them."""
            stats: Any = client.info("stats")
            return int(stats["total_reads_processed"])

        before = requests()
        values.read(wanted)
        assert requests() - before == 2


def test_a_reply_that_was_given_up_is_never_taken_for_another(
    on_redis: FeatureStore, server: RedisServer
) -> None:
    values = OnlineValues.of(on_redis)

    def read(numbers: list[int], within_s: float) -> list[bytes]:
        wanted = wanted_rows(ROWS, [f"q:{n}" for n in numbers])
        (found,) = values.read([wanted], time.monotonic() + within_s)
        return [packed_row(value) for (value,) in found]

    others = [[n, n + 1] for n in range(10, 18, 2)]
    assert read([0, 1], 60.0) == [b"q:0", b"q:1"]
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError):
            read([2, 3], 0.05)
        with ThreadPoolExecutor(len(others)) as threads:
            # They are asked before the reply to what was given up comes.
            answers = [threads.submit(read, numbers, 60.0) for numbers in others]
            time.sleep(0.2)
            server.process.send_signal(signal.SIGCONT)
            found = [answer.result() for answer in answers]
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert found == [[f"q:{n}".encode() for n in numbers] for numbers in others]
    assert read([4, 5], 60.0) == [b"q:4", b"q:5"]


def test_a_history_is_read_whole_while_it_is_written(
    tmp_path: Path, online_store: str, request: pytest.FixtureRequest
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if online_store == "redis":
            patch.setenv(REDIS_ENV, request.getfixturevalue("new_redis")())
        home = Home.at(tmp_path / "home")
        empty_tables(home, SCHEMA)
        store = filled(home, SCHEMA)
    online = backfill(home, store)
    done = threading.Event()

    def write() -> None:
        try:
            for n in range(20):
                online.merge_events([event(n)])
        finally:
            done.set()

    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(write)
        while not done.is_set():
            found = read_histories(store, HISTORIES, ["ann"])["ann"]
            assert found.event_ids.tolist() == list(range(len(found)))
        writing.result()


def test_a_read_sees_what_was_written_before_it_whatever_other_threads_read(
    embedded: FeatureStore,
) -> None:
    values, done = OnlineValues.of(embedded), threading.Event()
    keys = [f"q:{n}" for n in range(500)]

    def write(rows: dict[str, bytes]) -> None:
        frame = pd.DataFrame({"engagement_key": list(rows), "row": list(rows.values())})
        embedded.write_to_online_store(ROWS, frame.assign(event_timestamp=pd.Timestamp.now("UTC")))

    def others() -> None:
        while not done.is_set():
            values.read([wanted_rows(ROWS, keys)])

    write(dict.fromkeys(keys, b"row"))
    with ThreadPoolExecutor(2) as threads:
        reading = [threads.submit(others) for _ in range(2)]
        try:
            for n in range(8):
                write({"q:own": b"%d" % n})
                ((own,),) = values.read([wanted_rows(ROWS, ["q:own"])])
                assert packed_row(own[0]) == b"%d" % n
        finally:
            done.set()
        for each in reading:
            each.result()
