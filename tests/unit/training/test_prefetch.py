"""Batches prefetched: the same in the same order, errors in their place, nothing left running."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from prerank.training.prefetch import DEPTH, Prefetcher


def numbered(epoch: int) -> Iterator[Any]:
    """Five batches an epoch, told apart by their numbers."""
    yield from (10 * epoch + n for n in range(5))


def test_epochs_come_whole_and_in_order() -> None:
    with Prefetcher(numbered, range(2, 5)) as prefetcher:
        assert [list(prefetcher.epoch()) for _ in range(3)] == [
            list(numbered(e)) for e in (2, 3, 4)
        ]


def test_an_epoch_without_batches_is_empty() -> None:
    with Prefetcher(lambda epoch: numbered(epoch) if epoch else iter(()), range(2)) as prefetcher:
        assert list(prefetcher.epoch()) == []
        assert list(prefetcher.epoch()) == list(numbered(1))


def test_the_next_epoch_is_made_before_it_is_asked_for_and_no_more_than_there_is_room_for() -> None:
    begun, made = threading.Event(), []

    def source(epoch: int) -> Iterator[Any]:
        if epoch:
            begun.set()
        for batch in range(3 if not epoch else 1000):
            made.append((epoch, batch))
            yield batch

    with Prefetcher(source, range(2)) as prefetcher:
        assert list(prefetcher.epoch()) == [0, 1, 2]
        assert begun.wait(10)
        time.sleep(0.3)
        assert len(made) <= 3 + DEPTH + 1


def test_what_the_source_raises_is_raised_where_it_would_have_been() -> None:
    def source(epoch: int) -> Iterator[Any]:
        yield 1
        raise OSError("part-00003.parquet is gone")

    with Prefetcher(source, range(1)) as prefetcher:
        batches = prefetcher.epoch()
        assert next(batches) == 1
        with pytest.raises(OSError, match="part-00003"):
            next(batches)


@pytest.mark.parametrize("read", [0, 2, 7])
def test_stopping_early_closes_the_source_and_ends_the_thread(read: int) -> None:
    closed = threading.Event()

    def endless(epoch: int) -> Iterator[Any]:
        try:
            while True:
                yield epoch
        finally:
            closed.set()

    with Prefetcher(endless, range(3)) as prefetcher:
        batches = prefetcher.epoch()
        assert [next(batches) for _ in range(read)] == [0] * read
    assert closed.wait(10)
    assert not [t for t in threading.enumerate() if t.name == "batches"]
