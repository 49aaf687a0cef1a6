"""The journal in Redis when Redis is killed, full, not durable, shared, or new to a home."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.event_logs import acknowledged, append, appends_again, owned, records, unmerged
from tests.online_events import SCHEMA, event, ids, wait_until
from tests.online_log import empty_tables, filled
from tests.redis_server import DURABLE, RedisServer

from prerank.core.errors import NotReadyError
from prerank.core.home import Home
from prerank.online.compaction import DAY_S, JournalConfig
from prerank.online.history import Event
from prerank.online.logs import look
from prerank.online.store import REDIS_ENV
from prerank.online.streams import Streams
from prerank.online.writer import HistoryWriter


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(tmp_path / "home")


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
    monkeypatch.setenv(REDIS_ENV, f"{master.address},socket_timeout=4")
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
