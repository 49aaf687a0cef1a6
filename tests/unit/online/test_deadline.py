"""A read ends at the request's deadline, whatever it waits for, and says what it left out."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import pytest
from tests.redis_server import RedisServer
from tests.small_tables import CUTOFF, HOUR, QUERY, SCHEMA, USER

from prerank.core.home import Home
from prerank.online.reader import OnlineFeatures, OnlineRead
from prerank.online.store import REDIS_ENV

BUDGET_S = 0.3
MARGIN_S = 10.0
"""For a machine that is busy. The server is away for longer than both."""
PATIENT_S = 60.0
LEFT_OUT = ("engagement", "user_history")


@pytest.fixture
def home(home_on_server: Home) -> Home:
    return home_on_server


@pytest.fixture
def new_online(home: Home) -> Iterator[Callable[[float], OnlineFeatures]]:
    made: list[OnlineFeatures] = []

    def new(timeout_s: float) -> OnlineFeatures:
        made.append(OnlineFeatures(home, SCHEMA, timeout_s=timeout_s))
        return made[-1]

    yield new
    for online in made:
        online.close()


NewOnline = Callable[[float], OnlineFeatures]


def read(online: OnlineFeatures, within_s: float) -> OnlineRead:
    """What is read within some time, and a margin."""
    began = time.monotonic()
    found = online.read(QUERY, USER, CUTOFF + HOUR, deadline=began + within_s)
    assert time.monotonic() - began < within_s + MARGIN_S
    return found


def wait_until_whole(online: OnlineFeatures) -> None:
    until = time.monotonic() + MARGIN_S
    while read(online, PATIENT_S).degraded:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_server_that_hangs_costs_each_request_its_own_budget(
    new_online: NewOnline, server: RedisServer
) -> None:
    online = new_online(PATIENT_S)
    assert read(online, PATIENT_S).degraded == ()
    with server.paused():
        for _ in range(5):
            assert read(online, BUDGET_S).degraded == LEFT_OUT
        assert online.problem == "", "hurried requests do not part others from the store"
    assert read(online, PATIENT_S).degraded == ()


def test_after_three_that_had_their_time_the_store_is_not_asked(
    new_online: NewOnline, server: RedisServer
) -> None:
    online = new_online(BUDGET_S)
    wait_until_whole(online)
    with server.paused():
        for _ in range(3):
            assert read(online, PATIENT_S).degraded == LEFT_OUT
        assert "does not answer" in online.problem
        began = time.monotonic()
        for _ in range(100):
            assert read(online, PATIENT_S).degraded == LEFT_OUT
        assert time.monotonic() - began < 100 * BUDGET_S / 2, "each was answered at once"
    wait_until_whole(online)
    assert online.problem == ""


def test_a_server_that_is_killed_and_comes_back(new_online: NewOnline, server: RedisServer) -> None:
    online = new_online(BUDGET_S)
    wait_until_whole(online)
    server.kill()
    for _ in range(20):
        assert read(online, PATIENT_S).degraded == LEFT_OUT
    server.start()
    until = time.monotonic() + MARGIN_S
    while read(online, PATIENT_S).degraded != ("online_store",):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_deadline_that_has_passed_asks_nothing_and_blames_nobody(new_online: NewOnline) -> None:
    online = new_online(PATIENT_S)
    for _ in range(5):
        assert read(online, -1.0).degraded == LEFT_OUT
    assert online.problem == ""
    assert read(online, PATIENT_S).degraded == ()


def test_the_stages_of_a_connection_have_one_deadline_together(
    home: Home, new_online: NewOnline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that says something again and again, and never all of it."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener, slow_speaker(listener):
        monkeypatch.setenv(REDIS_ENV, f"127.0.0.1:{listener.getsockname()[1]}")
        online = new_online(2 * BUDGET_S)
        for _ in range(2):
            assert read(online, BUDGET_S).degraded == LEFT_OUT


@contextmanager
def slow_speaker(listener: socket.socket) -> Iterator[None]:
    stop = threading.Event()
    lines: list[socket.socket] = []

    def speak() -> None:
        listener.settimeout(0.05)
        while not stop.wait(0.05):
            with suppress(TimeoutError):
                lines.append(listener.accept()[0])
            for line in lines:
                try:
                    line.sendall(b"+")
                except OSError:
                    continue

    speaker = threading.Thread(target=speak)
    speaker.start()
    try:
        yield
    finally:
        stop.set()
        speaker.join()
        for line in lines:
            line.close()
