"""Redis killed, hanging or never answering: a read is short, and comes back by itself."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from tests.redis_server import RedisServer
from tests.small_tables import CUTOFF, HOUR, QUERY, SCHEMA, USER

from prerank.core.home import Home
from prerank.online.materialise import materialise
from prerank.online.reader import OnlineFeatures, OnlineRead
from prerank.online.store import REDIS_ENV
from prerank.online.values import RedisValues, Values

TIMEOUT_S = 0.1
READS = 20
BOUND_S = 20.0
"""Of that many requests. Three time-outs are a third of a second; a loaded machine takes its time.
With redis-py's own retries they took minutes."""
RETURN_S = 30.0
AWAY = ("engagement", "user_history")


@pytest.fixture
def home(home_on_server: Home) -> Home:
    return home_on_server


@pytest.fixture
def online(home: Home) -> Iterator[OnlineFeatures]:
    online = OnlineFeatures(home, SCHEMA, timeout_s=TIMEOUT_S)
    wait_for(lambda: read(online).degraded == ())
    yield online
    online.close()


def read(online: OnlineFeatures) -> OnlineRead:
    return online.read(QUERY, USER, CUTOFF + HOUR)


def problem(online: OnlineFeatures) -> str:
    online.look()
    return online.problem


def wait_for(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + RETURN_S
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def assert_short_and_then_not_asked(
    online: OnlineFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, ask = [], RedisValues.read

    def counted(self: RedisValues, *args: Any) -> list[Values]:
        if threading.current_thread() is threading.main_thread():
            asked.append(args)
        return ask(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(RedisValues, "read", counted)
        began = time.monotonic()
        for _ in range(READS):
            assert read(online).degraded == AWAY
        assert time.monotonic() - began < BOUND_S
    assert len(asked) == 3
    assert "does not answer" in online.problem


def test_killed_and_started_again_empty(
    home: Home, online: OnlineFeatures, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.kill()
    assert_short_and_then_not_asked(online, monkeypatch)
    server.start()
    wait_for(lambda: read(online).degraded == ("online_store",))
    assert "no sentinel" in online.problem
    materialise(home, progress=False)
    wait_for(lambda: read(online).degraded == ())


def test_hanging_and_going_on(
    online: OnlineFeatures, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.paused():
        assert_short_and_then_not_asked(online, monkeypatch)
    wait_for(lambda: read(online).degraded == ())
    wait_for(lambda: problem(online) == "")


def test_a_port_that_accepts_and_never_answers(
    home: Home, online: OnlineFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0), backlog=50)) as black_hole:
        monkeypatch.setenv(REDIS_ENV, f"127.0.0.1:{black_hole.getsockname()[1]}")
        with closing(OnlineFeatures(home, SCHEMA, timeout_s=TIMEOUT_S)) as lost:
            assert_short_and_then_not_asked(lost, monkeypatch)


def test_a_server_that_evicts_is_noticed(
    home: Home, online: OnlineFeatures, server: RedisServer
) -> None:
    wait_for(lambda: problem(online) == "")
    with closing(server.client()) as client:
        client.config_set("maxmemory-policy", "allkeys-random")
        memory: Any = client.info("memory")
        client.config_set("maxmemory", memory["used_memory"] + 200_000)
        for n in range(50):
            client.set(f"filler {n}", b"x" * 10_000)
    wait_for(lambda: "lost" in problem(online) or "noeviction" in problem(online))
    wait_for(lambda: read(online).degraded == ("online_store",))
