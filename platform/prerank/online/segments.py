"""The files of the journals: a journal is a row of segments, and each segment is a ``Journal``.

``writer-SSS-N.jsonl`` is a segment of shard SSS. N grows from segment to segment; it is the second
in which the segment was begun, so a name tells an age. ``writer-SSS-N.compact.jsonl`` takes the
place of every segment of its shard up to N. ``writer-SSS.jsonl`` was written before there were
segments, and counts as number 0.

A segment never changes but at its end, and never gets another name, so a name and a length in
bytes say for ever what was read.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from prerank.core.errors import DataError
from prerank.online.history import Event
from prerank.online.journal import Journal, replay
from prerank.online.records import event_of

_NAME = re.compile(r"writer-(\d+)(?:-(\d+))?(\.compact)?\.jsonl")


class Segment(NamedTuple):
    """A file of a journal."""

    shard: int
    number: int
    compact: bool
    path: Path


def found_segments(folder: Path) -> list[Segment]:
    """Every segment in ``folder``, oldest first within a shard."""
    found = ((_NAME.fullmatch(path.name), path) for path in folder.glob("writer-*.jsonl"))
    return sorted(
        Segment(int(name[1]), int(name[2] or 0), bool(name[3]), path)
        for name, path in found
        if name
    )


def live_segments(folder: Path) -> list[Segment]:
    """The segments that hold the journals: without those that a compact one has replaced."""
    found = found_segments(folder)
    newest = {s.shard: s.number for s in found if s.compact}
    return [
        s for s in found if (s.number, s.compact) >= (newest.get(s.shard, -1), s.shard in newest)
    ]


@contextmanager
def opened(folder: Path) -> Iterator[Sequence[tuple[Segment, BinaryIO]]]:
    """The live segments of ``folder``, open: whatever is compacted meanwhile, each event once."""
    while True:
        with ExitStack() as stack:
            before = live_segments(folder)
            try:
                files = [(s, stack.enter_context(s.path.open("rb"))) for s in before]
            except FileNotFoundError:
                continue
            # A folder that changes while it is listed may show neither the old name nor the new.
            if live_segments(folder) == before:
                yield files
                return


def journaled_events(folder: Path) -> Iterator[list[Event]]:
    """Batches of the acknowledged events in ``folder``; what is no event is left out."""
    with opened(folder) as files:
        for _, file in files:
            for records, _ in replay(file):
                events = []
                for record in records:
                    with suppress(DataError):
                        events.append(event_of(record))
                yield events


class Segments:
    """The journal that one writer appends to. A new process begins a new segment."""

    def __init__(self, folder: Path, shard: int, max_bytes: int) -> None:
        self.folder, self._shard, self._max_bytes = folder, shard, max_bytes
        numbers = [s.number for s in found_segments(folder) if s.shard == shard]
        self._last = max(numbers, default=0)
        self._open: Journal | None = None
        self._length = 0

    def append(self, records: Sequence[Mapping[str, Any]]) -> tuple[str, int]:
        """Append and sync; the segment's name, and its length in bytes.

        Raises:
            OSError: the disk refuses; the records are not acknowledged.
        """
        if self._open is None or self._length >= self._max_bytes:
            self._open = Journal(self.folder / segment_name(self._shard, self.next_number()))
        self._length = self._open.append(records)
        return self._open.path.name, self._length

    def next_number(self) -> int:
        """End the segment; a number above those of all that exist, below those to come."""
        self._open = None
        self._last = max(self._last + 1, int(time.time()))
        return self._last


def segment_name(shard: int, number: int, compact: bool = False) -> str:
    """Name of a segment's file."""
    return f"writer-{shard:03d}-{number:010d}{'.compact' if compact else ''}.jsonl"
