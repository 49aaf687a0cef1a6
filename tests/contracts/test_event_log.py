"""The journal of acknowledged events keeps its contract, in files and in Redis."""

from __future__ import annotations

import os
import signal
import socket
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.event_logs import Owner, acknowledged, append, owned, records, unmerged
from tests.online_events import SCHEMA, event, ids, replayed, wait_until
from tests.online_log import empty_tables, filled

from interactrank.features.schema import HISTORY_LENGTH
from prerank.core.errors import NotReadyError
from prerank.core.home import Home
from prerank.online.compaction import DAY_S, JournalConfig
from prerank.online.history import Event
from prerank.online.journal import REPLAY_BATCH
from prerank.online.logs import look
from prerank.online.store import REDIS_ENV
from prerank.online.writer import HistoryWriter

USERS = ("ann", "bob", "cy")
SHORT_S = 2.0
"""A lease that an owner loses soon once it is paused."""


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


@pytest.fixture(scope="module")
def other() -> Iterator[Owner]:
    owner = Owner()
    yield owner
    owner.kill()


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
                    expected = replayed([*whole, late], engagements)
                    assert replayed(kept, engagements) == expected
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
