"""Records that can never enter a history: set aside with the reason, so that they hold up nobody.

One file for all writers of a home, under a lock of its own. Each line is an object with ``reason``,
``at`` (when it was set aside, seconds since 1970) and ``record``.
"""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import xxhash

from prerank.core.forgotten import Forgotten
from prerank.core.home import Home
from prerank.online.journal import Journal, write_lines

logger = logging.getLogger(__name__)


def path_of(folder: Path) -> Path:
    """The file, under the journals' folder."""
    return folder / "dead-letters.jsonl"


def count_dead_letters(home: Home) -> int:
    """How many records are set aside; read from disk, so that any process can tell."""
    try:
        with path_of(home.journal).open("rb") as file:
            return sum(1 for _ in file)
    except FileNotFoundError:
        return 0


class DeadLetters:
    """Where one writer sets records aside. The same record is set aside once."""

    def __init__(self, folder: Path) -> None:
        self._path = path_of(folder)
        self._known = {digest(letter["record"]) for letter in self._letters()}

    def add(self, letters: Sequence[tuple[Any, str]]) -> None:
        """Set records aside, each with its reason.

        Raises:
            OSError: the disk refuses; nothing was set aside.
        """
        new = {digest(record): (record, reason) for record, reason in letters}
        new = {key: letter for key, letter in new.items() if key not in self._known}
        if not new:
            return
        at = int(time.time())
        with self._alone():
            Journal(self._path).append(
                [{"reason": reason, "at": at, "record": record} for record, reason in new.values()]
            )
        self._known.update(new)
        for _, reason in new.values():
            logger.error("an event enters no history: %s; see %s", reason, self._path)

    def forget(self, before: float) -> None:
        """Remove what was set aside before a time, in seconds since 1970.

        Raises:
            OSError: the disk refuses; nothing was removed.
        """
        self._keep(lambda letter: letter["at"] >= before)

    def forget_users(self, forgotten: Forgotten) -> int:
        """Remove what was set aside of users; how many letters.

        Raises:
            OSError: the disk refuses; nothing was removed.
        """
        return self._keep(lambda letter: not forgotten.named_in(letter["record"]))

    def _keep(self, wanted: Callable[[dict[str, Any]], bool]) -> int:
        with self._alone():
            letters = list(self._letters())
            kept = [letter for letter in letters if wanted(letter)]
            if len(kept) < len(letters):
                write_lines(self._path, (orjson.dumps(letter) + b"\n" for letter in kept))
        return len(letters) - len(kept)

    def _letters(self) -> Iterator[dict[str, Any]]:
        if self._path.exists():
            with self._path.open("rb") as file:
                for line in file:
                    try:
                        yield orjson.loads(line)
                    except orjson.JSONDecodeError:
                        # Torn by a crash; the record still stands in its journal.
                        continue

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def digest(record: Any) -> int:
    """Tells records apart."""
    return xxhash.xxh3_64_intdigest(orjson.dumps(record, option=orjson.OPT_SORT_KEYS))
