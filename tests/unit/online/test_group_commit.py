"""Callers that wait while something is written are written together, and nobody waits longer."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from tests.online_events import wait_until

from prerank.online.group_commit import GroupCommit

CALLERS = 16


class Disk:
    """Writes a batch when it is let, and knows what came."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.let = threading.Semaphore(0)

    def write(self, items: Sequence[int]) -> int:
        self.batches.append(list(items))
        assert self.let.acquire(timeout=60)
        if 13 in items:
            raise OSError("no space left")
        return len(items)


def is_waiting(commit: GroupCommit[int, int], count: int) -> bool:
    return commit.waiting == count


def started(disk: Disk, commit: GroupCommit[int, int], threads: ThreadPoolExecutor) -> list:
    """Calls of 0 to 15: the first writes, the others wait."""
    calls = [threads.submit(commit, 0)]
    wait_until(lambda: disk.batches == [[0]], "nobody writes")
    for n in range(1, CALLERS):
        calls.append(threads.submit(commit, n))
        wait_until(partial(is_waiting, commit, n), "a caller does not wait")
    return calls


def test_callers_that_come_during_a_write_are_written_together_in_their_order() -> None:
    disk = Disk()
    commit = GroupCommit(disk.write)
    with ThreadPoolExecutor(CALLERS) as threads:
        first, *others = started(disk, commit, threads)
        disk.let.release()
        # It is done, and waits for no other write.
        assert first.result(60) == 1
        wait_until(lambda: len(disk.batches) == 2, "nobody writes for those who wait")
        assert disk.batches[1] == list(range(1, CALLERS))
        assert not any(call.done() for call in others)
        disk.let.release()
        with pytest.raises(OSError, match="no space"):
            others[0].result(60)
        # What fails is told to each, and the next write is another one.
        assert all(isinstance(call.exception(60), OSError) for call in others)
        disk.let.release()
        assert commit(7) == 1


def test_no_call_is_lost_or_written_twice() -> None:
    written = list[int]()

    def write(items: Sequence[int]) -> int:
        written.extend(items)
        return len(items)

    commit = GroupCommit(write)
    with ThreadPoolExecutor(CALLERS) as threads:
        assert all(count >= 1 for count in threads.map(commit, range(2_000)))
    assert sorted(written) == list(range(2_000))
