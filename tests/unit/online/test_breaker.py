"""A store that fails is left alone, and asked again by a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from prerank.core.errors import NotReadyError
from prerank.online.breaker import Breaker


class Store:
    """Fails until it is mended; counts who asked."""

    def __init__(self) -> None:
        self.mended, self.tried, self.asked = False, threading.Semaphore(0), 0

    def trial(self) -> None:
        self.tried.release()
        if not self.mended:
            raise ConnectionError

    def call(self) -> str:
        self.asked += 1
        if not self.mended:
            raise ConnectionError
        return "row"


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def breaker(store: Store) -> Iterator[Breaker]:
    breaker = Breaker(store.trial, limit=3, pause_s=0.01)
    yield breaker
    breaker.close()


def fail(breaker: Breaker, store: Store, times: int) -> None:
    for _ in range(times):
        with pytest.raises(ConnectionError):
            breaker.call(store.call)


def test_after_three_failures_in_a_row_the_store_is_not_asked(
    breaker: Breaker, store: Store
) -> None:
    fail(breaker, store, 2)
    assert not breaker.open
    fail(breaker, store, 1)
    for _ in range(5):
        with pytest.raises(NotReadyError, match="does not answer"):
            breaker.call(store.call)
    assert store.asked == 3


def test_it_is_tried_again_without_a_caller_until_it_answers(
    breaker: Breaker, store: Store
) -> None:
    fail(breaker, store, 3)
    for _ in range(3):
        assert store.tried.acquire(timeout=20)
    assert breaker.open
    store.mended = True
    done = threading.Event()
    while breaker.open:
        assert not done.wait(0.01)
    assert breaker.call(store.call) == "row"
    store.mended = False
    fail(breaker, store, 2)
    assert not breaker.open, "earlier failures count no more"


def test_a_success_between_failures_starts_the_count_again(breaker: Breaker, store: Store) -> None:
    for _ in range(3):
        fail(breaker, store, 2)
        store.mended = True
        breaker.call(store.call)
        store.mended = False
    assert not breaker.open


def test_a_call_that_fails_for_its_own_reason_says_nothing_of_the_store(breaker: Breaker) -> None:
    def broken() -> None:
        raise ValueError("its own")

    for _ in range(5):
        with pytest.raises(ValueError, match="its own"):
            breaker.call(broken)
    assert not breaker.open
