"""The journal of acknowledged events keeps its contract, in files and in Redis."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import time
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.event_logs import Owner, acknowledged, owned, records, unmerged
from tests.online_events import SCHEMA, event, ids, wait_until
from tests.online_log import empty_tables, filled
from tests.redis_server import RedisServer

from interactrank.features.schema import HISTORY_LENGTH
from prerank.core.errors import NotReadyError
from prerank.core.home import Home
from prerank.online.compaction import DAY_S, JournalConfig
from prerank.online.event_log import EventLog
from prerank.online.history import NO_HISTORY, Event, History, merged
from prerank.online.journal import REPLAY_BATCH
from prerank.online.logs import look
from prerank.online.store import REDIS_ENV
from prerank.online.streams import Streams
from prerank.online.writer import HistoryWriter

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
USERS = ("ann", "bob", "cy")
SHORT_S = 2.0
"""A lease that an owner loses soon once it is paused."""


@pytest.fixture(scope="module")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """PRERANK_REDIS of an empty database, at each call, on a server that syncs every write."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), *DURABLE, "--databases", "1000")
    try:
        server.start()
        numbers = itertools.count()
        yield lambda: f"{server.address},db={next(numbers)}"
    finally:
        server.kill()


@pytest.fixture(params=["file", "redis"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each journal in turn, named by the environment, as an installation names it."""
    monkeypatch.delenv(REDIS_ENV, raising=False)
    if request.param == "redis":
        monkeypatch.setenv(REDIS_ENV, request.getfixturevalue("new_database")())
    return str(request.param)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(tmp_path / "home")


@pytest.fixture
def in_redis(new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REDIS_ENV, new_database())


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """A server that syncs every write, which the test may kill and start again."""
    server = RedisServer(tmp_path, *DURABLE)
    try:
        server.start()
        monkeypatch.setenv(REDIS_ENV, server.address)
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def other() -> Iterator[Owner]:
    owner = Owner()
    yield owner
    owner.kill()


def append(log: EventLog, *numbers: int) -> None:
    log.append(records([event(n) for n in numbers]))


def appends_again(log: EventLog, n: int) -> bool:
    try:
        append(log, n)
    except NotReadyError:
        return False
    return True


def test_what_was_appended_is_read_back_in_the_order_of_each_user(kind: str, home: Home) -> None:
    events = [replace(event(n, USERS[n % 3]), query="red shoe" * (n % 2)) for n in range(30)]
    with owned(home) as log:
        for start in range(0, 30, 7):
            log.append(records(events[start : start + 7]))
        found = acknowledged(home)
        assert [found, unmerged(log)] == [events, list(range(30))]


def test_a_restart_goes_on_from_what_was_merged(kind: str, home: Home) -> None:
    with owned(home) as log:
        assert not log.stale
        done = log.append(records([event(1), event(2)]))
        done()
        append(log, 3)
        log.save()
    with owned(home) as log:
        assert log.stale
        assert unmerged(log) == [3]
        assert not log.stale
        assert unmerged(log, merge=True) == [3]
        assert unmerged(log) == []
        # A crash, before it was written down: given again, and merging again changes nothing.
    with owned(home) as log:
        assert unmerged(log, merge=True) == [3]
        log.save()
    with owned(home) as log:
        assert not log.stale
        assert unmerged(log) == []
    assert [e.event_id for e in acknowledged(home)] == [1, 2, 3]


def test_every_shards_journal_is_read_whatever_the_number_of_owners(kind: str, home: Home) -> None:
    for shard in range(3):
        with owned(home, shard, 3) as log:
            append(log, shard)
    with owned(home) as log:
        assert sorted(unmerged(log)) == [0, 1, 2]
        assert [batch.own for batch in log.unmerged()] == [True] * 3


def test_a_second_owner_is_refused_with_the_name_of_the_first(kind: str, home: Home) -> None:
    with owned(home, 1, 3) as log, owned(home, 2, 3):
        for shard, shards in ((1, 3), (0, 1), (1, 2)):
            with pytest.raises(NotReadyError) as refused, owned(home, shard, shards):
                pass
            for part in (f"(pid) {os.getpid()} ", socket.gethostname(), "of-003", "Stop"):
                assert part in str(refused.value)
        append(log, 1)
    with owned(home) as log:
        append(log, 2)
    assert sorted(e.event_id for e in acknowledged(home)) == [1, 2]


def test_an_owner_that_was_paused_for_longer_than_its_lease_appends_nothing(
    kind: str, home: Home, other: Owner
) -> None:
    with other.of(home, SHORT_S) as process:
        assert other.says("append 1") == "acknowledged 1"
        process.send_signal(signal.SIGSTOP)
        if kind == "file":
            # The users are its own until its process ends, however long it is paused.
            with pytest.raises(NotReadyError), owned(home):
                pass
            process.send_signal(signal.SIGCONT)
            assert other.says("append 2") == "acknowledged 2"
            return
        with owned(home, wait_s=60) as log:
            append(log, 10)
            process.send_signal(signal.SIGCONT)
            assert f"(pid) {os.getpid()} " in other.says("append 2")
            append(log, 11)
        assert [e.event_id for e in acknowledged(home)] == [1, 10, 11]
        # It becomes the owner again when the users are free.
        wait_until(lambda: other.says("append 3") == "acknowledged 3", "never the owner again")


def test_what_a_paused_owner_overwrote_is_merged_again(
    in_redis: None, home: Home, other: Owner
) -> None:
    with other.of(home, SHORT_S) as process:
        assert other.says("append 1") == "acknowledged 1"
        # It is paused while it writes a history, and writes the one of before.
        process.send_signal(signal.SIGSTOP)
        with owned(home, wait_s=60, lease_s=2 * SHORT_S) as log:
            assert unmerged(log, merge=True) == [1]
            log.append(records([event(2)]))()
            assert not log.stale
            process.send_signal(signal.SIGCONT)
            assert "merged again" in other.says("merged")
            wait_until(lambda: log.stale, "the owner did not learn of it")
            assert unmerged(log) == [1, 2]


def test_what_was_overwritten_while_the_users_had_no_owner_is_merged_by_the_next(
    in_redis: None, home: Home, other: Owner
) -> None:
    with other.of(home, SHORT_S) as process:
        assert other.says("append 1") == "acknowledged 1"
        process.send_signal(signal.SIGSTOP)
        with owned(home, wait_s=60) as log:
            log.append(records([event(2)]))
            assert unmerged(log, merge=True) == [1, 2]
            log.save()
        with owned(home) as log:
            assert not log.stale
        process.send_signal(signal.SIGCONT)
        assert "merged again" in other.says("merged")
    with owned(home) as log:
        assert log.stale
        assert unmerged(log) == [1, 2]


def test_an_owner_that_is_killed_while_it_appends_loses_nothing_acknowledged(
    kind: str, home: Home, other: Owner
) -> None:
    with other.of(home, SHORT_S):
        other.tell("stream")
        told = [other.answer() for _ in range(200)]
        told += other.kill().splitlines()
    found = [e.event_id for e in acknowledged(home)]
    # What was being written when the process ended is there or not.
    assert found[: len(told)] == [int(words.removeprefix("acknowledged ")) for words in told]
    assert len(found) <= len(told) + 1
    with owned(home, wait_s=60) as log:
        assert unmerged(log) == found


def test_a_record_that_is_no_event_is_set_aside_once_and_holds_up_nobody(
    kind: str, home: Home
) -> None:
    empty_tables(home, SCHEMA)
    store = filled(home, SCHEMA)
    poison = {**asdict(event(2)), "colour": 1}
    with owned(home) as log:
        log.append([*records([event(1)]), poison, *records([event(3)])])
    for _ in range(2):
        with HistoryWriter(home, store, SCHEMA, wait_s=0) as writer:
            writer.replay()
            assert writer.write([event(4)]).online
        for path in home.feast.glob("replayed-*.json"):
            path.unlink()
    assert ids(store) == [1, 3, 4]
    with owned(home) as log:
        log.set_aside([(poison, "told again")])
    assert look(home) == (1, "")
    config = JournalConfig(days=1e-9)
    time.sleep(1.1)
    with owned(home, config=config) as log:
        log.tidy([])
    assert look(home) == (0, "")


def histories(events: Sequence[Event], engagements: Sequence[str]) -> dict[str, History]:
    """What a replay of ``events`` gives, each merged alone."""
    codes = {action: code for code, action in enumerate(engagements)}
    found: dict[str, History] = defaultdict(lambda: NO_HISTORY)
    for e in events:
        if e.action in codes:
            found[e.user_id] = merged(found[e.user_id], History.of([e], codes))
    return dict(found)


def told(n: int, user: str, query: str = "") -> Event:
    # What is told again differs in the query at most, as ids are derived from the rest.
    action = SCHEMA.actions[n % 3]
    return replace(event(n, user, action, time=n * 7919 % 1000), query=query)


EVENTS = st.lists(
    st.builds(
        told, st.integers(0, 500), st.sampled_from(USERS), st.sampled_from(["", "", "shoe", "lamp"])
    ),
    max_size=60,
)


@pytest.mark.parametrize("where", ["file", "redis"])
@settings(max_examples=12)
@given(st.lists(EVENTS, min_size=1, max_size=3), st.integers(0, 400))
def test_what_is_made_small_loses_nothing_that_a_replay_needs(
    where: str,
    new_database: Callable[[], str],
    tmp_path_factory: pytest.TempPathFactory,
    parts: list[list[Event]],
    busy: int,
) -> None:
    config = JournalConfig(days=None, segment_bytes=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(REDIS_ENV, raising=False)
        if where == "redis":
            patch.setenv(REDIS_ENV, new_database())
        home = Home.at(tmp_path_factory.mktemp("home"))
        parts[0] += [told(n, "ann") for n in range(busy)]
        whole, late = list[Event](), told(10, "late")
        with owned(home, config=config) as log:
            for part in parts:
                log.append(records(part))()
                whole += part
                log.cut()
                # Acknowledged after the cut, and not merged: it stays as it is.
                log.append(records([late]))
                log.tidy(SCHEMA.passive)
                kept = acknowledged(home)
                for engagements in (["click", "save"], ["click"], ["save"]):
                    expected = histories([*whole, late], engagements)
                    assert histories(kept, engagements) == expected
                if part is parts[0]:
                    count = Counter((e.user_id, e.action) for e in kept)
                    assert max(count.values()) <= HISTORY_LENGTH
                    assert not any(e.action in SCHEMA.passive for e in kept)
            assert late.event_id in unmerged(log)


def test_what_is_older_than_is_allowed_is_removed_and_what_is_not_merged_stays(
    kind: str, home: Home
) -> None:
    config = JournalConfig(days=0.01 / DAY_S, segment_bytes=1)
    with owned(home, config=config) as log:
        log.append(records([event(1)]))()
        log.cut()
        append(log, 2)
        time.sleep(0.02)
        log.tidy(SCHEMA.passive)
        assert [e.event_id for e in acknowledged(home)] == [2]
        assert unmerged(log) == [2]
        append(log, 3)
        assert unmerged(log) == [2, 3]


def test_memory_stays_flat_while_a_long_journal_is_replayed(kind: str, home: Home) -> None:
    def peak() -> int:
        tracemalloc.start()
        lengths = [len(batch.records) for batch in log.unmerged()]
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert max(lengths) <= REPLAY_BATCH
        assert sum(lengths) == written
        return most

    with owned(home) as log:
        peaks, written = [], 0
        for until in (3_000, 15_000):
            for start in range(written, until, 1_000):
                append(log, *range(start, start + 1_000))
            written = until
            peaks.append(peak())
    assert peaks[1] < 1.5 * peaks[0]


def test_redis_that_was_killed_has_all_that_was_acknowledged(
    server: RedisServer, home: Home
) -> None:
    with owned(home) as log:
        for n in range(50):
            append(log, n)
        server.kill()
        with pytest.raises(NotReadyError, match=r"cannot be used.*Bring Redis back.*send"):
            append(log, 50)
        assert "Bring Redis back" in look(home)[1]
        server.start()
        wait_until(lambda: appends_again(log, 51), "the owner did not go on")
        assert [e.event_id for e in acknowledged(home)] == [*range(50), 51]
        assert look(home) == (0, "")


def test_a_writer_goes_on_by_itself_when_redis_is_back(server: RedisServer, home: Home) -> None:
    empty_tables(home, SCHEMA)
    store = filled(home, SCHEMA)
    with HistoryWriter(home, store, SCHEMA, wait_s=0) as writer:
        assert writer.write([event(1)]).online
        server.kill()
        with pytest.raises(NotReadyError, match="Bring Redis back"):
            writer.write([event(2)])
        server.start()
        wait_until(lambda: is_online(writer, event(3)), "the writer did not go on")
        assert ids(store) == [1, 3]
        assert acknowledged(home)[0] == event(1)


def is_online(writer: HistoryWriter, of: Event) -> bool:
    try:
        return writer.write([of]).online
    except NotReadyError:
        return False


def test_redis_without_memory_refuses_and_nothing_is_half_acknowledged(
    server: RedisServer, home: Home
) -> None:
    with owned(home) as log, closing(server.client()) as client:
        append(log, 1)
        client.config_set("maxmemory", "1")
        with pytest.raises(NotReadyError, match=r"maxmemory.*make room"):
            append(log, 2, 3)
        client.config_set("maxmemory", "0")
        append(log, 4)
        assert [e.event_id for e in acknowledged(home)] == [1, 4]


def test_redis_that_writes_nothing_to_disk_is_told_of(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = RedisServer(tmp_path)
    try:
        server.start()
        monkeypatch.setenv(REDIS_ENV, server.address)
        with owned(home):
            assert "Set `appendonly yes`" in caplog.text
        assert "Set `appendonly yes`" in look(home)[1]
    finally:
        server.kill()


def test_replicas_that_redis_must_have_hold_what_is_acknowledged(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    needs = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "600")
    master = RedisServer(folders[0], *DURABLE, *needs, "--repl-diskless-sync-delay", "0")
    replica = RedisServer(folders[1], *DURABLE, "--replicaof", f"127.0.0.1 {master.port}")
    monkeypatch.setenv(REDIS_ENV, f"{master.address},socket_timeout=1")
    try:
        master.start()
        with pytest.raises(NotReadyError, match="enough good replicas"), owned(home):
            pass
        replica.start()
        with closing(master.client()) as client:
            wait_until(lambda: client.wait(1, 100) == 1, "no replica")
        with owned(home, wait_s=10) as log:
            append(log, 1)
            assert replica.process is not None
            replica.process.send_signal(signal.SIGSTOP)
            with pytest.raises(NotReadyError, match=r"0 of the 1 replicas.*again"):
                append(log, 2)
            replica.process.send_signal(signal.SIGCONT)
            wait_until(lambda: appends_again(log, 2), "the replica is there again")
    finally:
        replica.kill()
        master.kill()


def test_homes_on_one_redis_share_no_key_of_their_journals(in_redis: None, tmp_path: Path) -> None:
    homes = [Home.at(tmp_path / name) for name in ("one", "other")]
    for n, home in enumerate(homes):
        with owned(home) as log:
            log.append(records([event(n)]))()
            log.save()
            log.set_aside([("poison", "why")])
    for n, home in enumerate(homes):
        assert [e.event_id for e in acknowledged(home)] == [n]
        with closing(Streams(home)) as streams:
            keys = {key.decode() for key in streams.client.scan_iter()}
            own = {key for key in keys if key.startswith(f"prerank_{home.id}:journal:")}
            assert len(own) * 2 == len(keys) > 6


def test_a_home_that_moves_to_redis_merges_what_its_files_hold_once(
    new_database: Callable[[], str], home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(REDIS_ENV, raising=False)
    with owned(home) as log:
        append(log, 1, 2)
    monkeypatch.setenv(REDIS_ENV, new_database())
    with owned(home) as log:
        assert log.stale
        append(log, 3)
        assert unmerged(log, merge=True) == [1, 2, 3]
        log.save()
    with owned(home) as log:
        assert not log.stale
        assert unmerged(log) == []
        assert sorted(e.event_id for e in acknowledged(home)) == [1, 2, 3]
    # They leave when they are older than is allowed, like everything else.
    time.sleep(0.02)
    with owned(home, config=JournalConfig(days=0.01 / DAY_S)) as log:
        log.cut()
        log.tidy(SCHEMA.passive)
    assert acknowledged(home) == []
