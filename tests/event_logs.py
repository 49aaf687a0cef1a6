"""Logs of acknowledged events, and a process of its own that appends to one.

``python -m tests.event_logs`` reads words from its input and answers each with a line:

    own HOME LEASE_S REDIS    becomes the owner of all users of a home: "owned"
    append N                  appends the N-th event: "acknowledged N", or the refusal
    merged                    tells that it is merged: "merged", or the refusal
    stream                    appends one event after another without end, and says so of each
    release                   "released"
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.online_events import event

from prerank.core.errors import NotReadyError, PrerankError
from prerank.core.home import Home
from prerank.online.compaction import JournalConfig
from prerank.online.event_log import EventLog
from prerank.online.file_log import FileLog
from prerank.online.history import Event
from prerank.online.lease import LEASE_S
from prerank.online.logs import acknowledged_events
from prerank.online.records import record_of
from prerank.online.store import REDIS_ENV
from prerank.online.stream_log import StreamLog


@contextmanager
def owned(
    home: Home,
    shard: int = 0,
    shards: int = 1,
    config: JournalConfig | None = None,
    wait_s: float = 0,
    lease_s: float = LEASE_S,
) -> Iterator[EventLog]:
    """The log of a shard of the home, of the kind that the environment names."""
    checkpoint = home.feast / f"replayed-{shard}-of-{shards}.json"
    about = (checkpoint, shard, shards, config or JournalConfig(), wait_s)
    in_redis = os.environ.get(REDIS_ENV)
    log: EventLog = StreamLog(home, *about, lease_s) if in_redis else FileLog(home, *about)
    try:
        yield log
    finally:
        log.close()


def records(events: Sequence[Event], at: int = 1_700_000_000) -> list[dict[str, Any]]:
    """What a writer appends."""
    return [record_of(e, at) for e in events]


def append(log: EventLog, *numbers: int) -> None:
    """Append the events of these numbers."""
    log.append(records([event(n) for n in numbers]))


def appends_again(log: EventLog, n: int) -> bool:
    """Append one; whether the log takes it."""
    try:
        append(log, n)
    except NotReadyError:
        return False
    return True


def unmerged(log: EventLog, merge: bool = False) -> list[int]:
    """Ids of the events that a log gives; with ``merge`` they count as merged."""
    found = []
    for batch in log.unmerged():
        found += [record["event_id"] for record in batch.records]
        if merge:
            batch.merged()
    return found


def acknowledged(home: Home) -> list[Event]:
    """All events of the home's journal."""
    return [e for batch in acknowledged_events(home) for e in batch]


class Owner:
    """A process that owns all users of a home. It starts when it is first needed, or was killed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    @contextmanager
    def of(self, home: Home, lease_s: float) -> Iterator[subprocess.Popen[str]]:
        """It has the users of a home, unless it is killed; the process."""
        process = self._process or self._start()
        assert self.says(f"own {home.root} {lease_s} {os.environ.get(REDIS_ENV, '')}") == "owned"
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            if self._process is not None:
                assert self.says("release") == "released"

    def tell(self, words: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{words}\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip()

    def says(self, words: str) -> str:
        """The answer to ``words``."""
        self.tell(words)
        return self.answer()

    def kill(self) -> str:
        """End it at once; what it said that nobody has read."""
        process, self._process = self._process, None
        if process is None:
            return ""
        process.kill()
        # Not communicate(): it passes over what was read ahead of the last answer.
        assert process.stdout
        told = process.stdout.read()
        process.communicate()
        return told

    def _start(self) -> subprocess.Popen[str]:
        path = os.pathsep.join(p for p in sys.path if p)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.event_logs"],
            env=os.environ | {"PYTHONPATH": path},
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self._process


def _main() -> None:
    numbers = itertools.count()
    with ExitStack() as stack:
        for line in sys.stdin:
            try:
                match line.split():
                    case ["own", root, lease_s, *redis]:
                        os.environ[REDIS_ENV] = "".join(redis)
                        log = stack.enter_context(owned(Home.at(root), lease_s=float(lease_s)))
                        print("owned", flush=True)
                    case ["append", n]:
                        merged = log.append(records([event(int(n))]))
                        print("acknowledged", n, flush=True)
                    case ["merged"]:
                        merged()
                        print("merged", flush=True)
                    case ["stream"]:
                        for number in numbers:
                            log.append(records([event(number)]))
                            print("acknowledged", number, flush=True)
                    case ["release"]:
                        stack.close()
                        print("released", flush=True)
            except PrerankError as error:
                print(error, flush=True)


if __name__ == "__main__":
    _main()
