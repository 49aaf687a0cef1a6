"""Writes down what was answered and reported, so that tomorrow's model can learn from it.

An answer is handed over in memory and written by a thread of its own, many to a file: a request
waits for no disk. Events are written once they are acknowledged and before the caller is told; a
process that is killed loses none of them, and of the answers those of the last ``EVERY_S`` seconds
at most. What cannot be kept, since the disk is full or slower than the requests, is counted.

With a home in an object store, a file goes there when it is whole, every ``EVERY_S`` seconds, and
without users who were forgotten by the time it is there. Until then its name begins with a dot, and
a node that is lost takes it along.

What is handed over stands on the day of that moment, however much later it is written: an event
finds the answer that it belongs to on its own day or the day before. With ``clock: replay`` the day
is that of the latest time which a request or an event brought.

Which answers are written depends on the request's id alone, so that everybody who logs a share of
them logs the same ones. Of users who were forgotten (``prerank.core.forgotten``) none is.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from prerank.core.errors import PrerankError
from prerank.core.files import publish, remove, written
from prerank.core.forgotten import Forgotten, following
from prerank.core.home import Home
from prerank.core.ids import hash_all
from prerank.core.served import REQUESTS, day_of, events_folder, requests_folder
from prerank.core.taken_out import write_without
from prerank.online.history import Event
from prerank.serving.answer import Answer
from prerank.serving.api import PrerankRequest
from prerank.serving.config import ServeConfig
from prerank.serving.served_rows import lines_of, row_of

EVERY_S = 30.0
HELD_BYTES, FULL_BYTES = 64 << 20, 16 << 20
"""Of answers that wait to be written: beyond the first they are lost, at the second they are
written without waiting for ``EVERY_S``."""
LOOK_EVERY_S = 600.0
"""How often old days are looked for."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LogConfig:
    """What is written, and for how long it is kept.

    Attributes:
        share: of the requests, above 0. Events are written whatever their request.
        items: of an answer, the best ones.
        days: after which a day's files are removed; None keeps them.
    """

    share: float
    items: int
    days: float | None


class ServedLog:
    """The served log of one process. ``start`` begins to write; safe to share between threads.

    Args:
        home: whose log it is.
        config: what to write.
        clock: seconds since 1970, by which the days are named; None for the latest time of what was
            handed over, for requests that bring their own.

    Attributes:
        lost: answers and events that could not be kept.
        problem: why the last of them could not; empty where it could.
    """

    def __init__(
        self, home: Home, config: LogConfig, clock: Callable[[], float] | None = time.time
    ) -> None:
        self._home, self.config, self._clock = home, config, clock
        self._following = following(home)
        self._name = f"{int(time.time()):x}-{secrets.token_hex(4)}"
        self._files, self._held, self._looked, self._latest_us = 0, 0, -LOOK_EVERY_S, 0
        self._waiting: list[tuple[str, PrerankRequest, Answer, tuple[str, ...]]] = []
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._wake, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="served-log", daemon=True)
        self._parts, self._unsent = 0, list[Path]()
        # What begins with one is this node's own.
        self._dot = "." if home.store else ""
        self.lost, self.problem = {"answers": 0, "events": 0}, ""

    def start(self) -> None:
        """Write from now on."""
        self._thread.start()

    def close(self) -> None:
        """Write what waits, and end."""
        self._ended.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self.flush()
        self._send()

    def answered(
        self, request: PrerankRequest, answer: Answer, given: tuple[str, ...] = ()
    ) -> None:
        """Keep an answer, if its request is one of those that are.

        Args:
            request: as it was read.
            answer: to it.
            given: names of the columns of ``request.retriever_features``.
        """
        if not self._chosen(request.request_id):
            return
        size = answer.read.bytes + 8 * len(request.keys) + 4096
        day = self._day(request.time_us)
        with self._lock:
            if self._held + size <= HELD_BYTES:
                self._held += size
                self._waiting.append((day, request, answer, given))
            else:
                self.lost["answers"] += 1
            full = self._held > FULL_BYTES
        if full:
            self._wake.set()

    def reported(self, body: bytes, events: Sequence[Event]) -> None:
        """Write the events of a call down, that were read from ``body`` and acknowledged."""
        if not events:
            return
        forgotten = self._following.now()
        known = [line for line in lines_of(body, events) if line["user_id"] not in forgotten]
        lines = b"".join(orjson.dumps(line) + b"\n" for line in known)
        try:
            day = self._day(max(event.time for event in events))
            with self._writing:
                path = _made(events_folder(self._home) / day) / self._events_file()
                with path.open("ab", buffering=0) as file:
                    file.write(lines)
                self._to_send(path)
        except OSError as error:
            self._failed(error, len(events), "events")
        else:
            self.problem = ""

    def flush(self) -> None:
        """Write the answers that wait."""
        with self._lock:
            waiting, self._waiting, self._held = self._waiting, [], 0
        # Now, not when they were handed over: a user may have been forgotten since.
        forgotten = self._following.now()
        waiting = [each for each in waiting if each[1].user_id not in forgotten]
        for day, answers in groupby(waiting, key=itemgetter(0)):
            self._write(day, [each[1:] for each in answers])

    def _write(
        self, day: str, answers: Sequence[tuple[PrerankRequest, Answer, tuple[str, ...]]]
    ) -> None:
        try:
            rows = [row_of(*each, self.config.items) for each in answers]
            self._files += 1
            name = f"{self._dot}{self._name}-{self._files:06d}.parquet"
            path = _made(requests_folder(self._home) / day) / name
            with written(path) as file:
                pq.write_table(pa.Table.from_pylist(rows, REQUESTS), file, compression="zstd")
            self._to_send(path)
        except (OSError, PrerankError) as error:
            self._failed(error, len(answers), "answers")
        else:
            self.problem = ""

    def _events_file(self) -> str:
        # An object is written once: what comes after it was sent goes to another file.
        part = f"-{self._parts:06d}" if self._home.store else ""
        return f"{self._dot}{self._name}{part}.jsonl"

    def _to_send(self, path: Path) -> None:
        if self._home.store and path not in self._unsent:
            self._unsent.append(path)

    def _send(self) -> None:
        """Publish what was written since the last time."""
        with self._writing:
            sent, self._parts = [*self._unsent], self._parts + 1
        try:
            for path in sent:
                self._publish(path)
                self._unsent.remove(path)
        except (OSError, PrerankError) as error:
            # They stay in the cache folder, and are sent with the next.
            self._failed(error, 0, "events")

    def _publish(self, path: Path) -> None:
        """Publish a whole file, without users who were forgotten by the time it is there."""
        whole = path.with_name(path.name.removeprefix(self._dot))
        known: Forgotten | None = None
        while known != (forgotten := self._forgotten()):
            if not write_without(path, path, forgotten):
                remove(whole)
                break
            publish(whole, path)
            known = forgotten
        path.unlink()

    def _forgotten(self) -> Forgotten:
        """Who was forgotten, as of now: whoever is from now on finds what has been published."""
        self._home.look(self._home.root)
        return self._following.now()

    def _chosen(self, request_id: str) -> bool:
        return bool(hash_all([request_id]).view(np.uint64)[0] < self.config.share * 2.0**64)

    def _run(self) -> None:
        while not self._ended.is_set():
            self._wake.wait(EVERY_S)
            self._wake.clear()
            try:
                self.flush()
                self._send()
                self._remove_old()
            except Exception:
                # The thread must live on; nobody waits for it who could be told.
                logger.exception("the served log was not written")

    def _day(self, brought_us: int) -> str:
        """Name of the folder for what is handed over now and brings a time with it."""
        with self._lock:
            self._latest_us = max(self._latest_us, brought_us)
        return day_of(self._latest_us / 1e6 if self._clock is None else self._clock())

    def _failed(self, error: OSError | PrerankError, number: int, what: str) -> None:
        with self._lock:
            self.lost[what] += number
        what_of, where = str(error), self._home.place
        if isinstance(error, OSError):
            what_of, where = error.strerror or what_of, error.filename
        told = f"the served log is not written: {what_of}"
        if told != self.problem:
            logger.error("%s (%s)", told, where)
        self.problem = told

    def _remove_old(self) -> None:
        now = time.monotonic()
        # A time that a caller brings, which may be wrong, removes nothing.
        if self._clock is None or self.config.days is None or now - self._looked < LOOK_EVERY_S:
            return
        self._looked = now
        kept = datetime.fromtimestamp(self._clock(), UTC).date() - timedelta(days=self.config.days)
        for parent in (requests_folder(self._home), events_folder(self._home)):
            for folder in parent.glob("day=*"):
                if date.fromisoformat(folder.name.removeprefix("day=")) < kept:
                    remove(folder)


def served_log_of(config: ServeConfig) -> ServedLog | None:
    """The served log of a deployment, which writes from now on; None where it keeps none."""
    if not config.log_share:
        return None
    settings = LogConfig(config.log_share, config.log_items, config.log_days)
    clock = None if config.clock == "replay" else time.time
    log = ServedLog(config.home_folder(), settings, clock)
    log.start()
    return log


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
