"""Callers that arrive while something is being written wait, and are then written together.

One of those who wait writes for all. Nobody who is done waits for the next write: what a write
costs (a sync of the disk, a round trip) is shared by as many as came during the one before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class _Call(Generic[T, R]):
    item: T
    done: bool = False
    result: R | None = None
    error: BaseException | None = None


class GroupCommit(Generic[T, R]):
    """Calls of ``write``, one at a time. Safe to share between threads.

    Args:
        write: writes the items of some callers, in the order in which they came. What it returns or
            raises is for each of them.
    """

    def __init__(self, write: Callable[[Sequence[T]], R]) -> None:
        self._write = write
        self._turn = threading.Condition()
        self._waiting: list[_Call[T, R]] = []
        self._writing = False

    @property
    def waiting(self) -> int:
        """How many callers wait for the write of now to end."""
        return len(self._waiting)

    def __call__(self, item: T) -> R:
        """Write ``item``.

        Raises:
            BaseException: as raised by ``write``.
        """
        call = _Call[T, R](item)
        with self._turn:
            self._waiting.append(call)
            while self._writing and not call.done:
                self._turn.wait()
            if not call.done:
                self._writing = True
                calls, self._waiting = self._waiting, []
        if not call.done:
            self._write_all(calls)
        if call.error is not None:
            raise call.error
        result: R = call.result  # type: ignore[assignment]  # there was no error
        return result

    def _write_all(self, calls: list[_Call[T, R]]) -> None:
        result, error = None, None
        try:
            result = self._write([call.item for call in calls])
        except BaseException as raised:
            error = raised
        with self._turn:
            for call in calls:
                call.result, call.error, call.done = result, error, True
            self._writing = False
            self._turn.notify_all()
