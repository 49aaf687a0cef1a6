"""A circuit breaker: a store that fails is left alone until it answers again.

After ``limit`` failures in a row every call is refused at once. A thread then tries the store every
``pause_s`` seconds, so that no request waits for the attempt, and the first success lets calls
through again. Only failures of the store count: a call that fails for a reason of its own says
nothing about the next one.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from typing import TypeVar

from redis import RedisError

from prerank.core.errors import NotReadyError

T = TypeVar("T")

LIMIT = 3
PAUSE_S = 0.5
AWAY = "the online store does not answer"
STORE_FAILURES = (OSError, RedisError, sqlite3.Error)

logger = logging.getLogger(__name__)


class Breaker:
    """Guards calls to one store. Safe to share between threads.

    Args:
        trial: asks the store for something; returns where it answers, raises where it does not.
        limit: failures in a row after which calls are refused.
        pause_s: seconds between trials.
    """

    def __init__(
        self, trial: Callable[[], object], limit: int = LIMIT, pause_s: float = PAUSE_S
    ) -> None:
        self._trial, self._limit, self._pause_s = trial, limit, pause_s
        self._failures = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def open(self) -> bool:
        """Whether calls are refused now."""
        return self._thread is not None

    def call(self, function: Callable[[], T]) -> T:
        """What ``function`` returns.

        Raises:
            NotReadyError: the store failed too often; ``function`` was not called.
            Exception: as raised by ``function``.
        """
        if self.open:
            raise NotReadyError(AWAY)
        try:
            result = function()
        except STORE_FAILURES:
            self._failed()
            raise
        self._failures = 0
        return result

    def close(self) -> None:
        """End the thread that tries the store; calls are refused for good if it was trying."""
        self._stop.set()

    def _failed(self) -> None:
        with self._lock:
            self._failures += 1
            if self._failures < self._limit or self.open:
                return
            self._thread = threading.Thread(target=self._recover, name="store", daemon=True)
            self._thread.start()
        logger.error("the online store failed %d times in a row: it is left alone", self._limit)

    def _recover(self) -> None:
        while not self._stop.wait(self._pause_s):
            try:
                self._trial()
            except Exception as error:
                logger.info("the online store is still away: %s", type(error).__name__)
                continue
            with self._lock:
                self._failures, self._thread = 0, None
            logger.warning("the online store answers again")
            return
