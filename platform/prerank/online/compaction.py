"""Making journals small: what no replay needs is left out, and what is older than is allowed.

A replay needs, of each user and action, the last HISTORY_LENGTH events: whichever actions a schema
counts as engagements, the last HISTORY_LENGTH of them are among these. What is exposure in every
schema of the home enters no history.

All segments of a shard are read and one takes their place. The cost of that is kept linear: it is
done when as much was appended as is kept, and once a day so that old events go. Memory holds a part
of the users at a time. A crash leaves the old segments, or the new one with old ones beside it that
no reader takes (``segments.live_segments``).
"""

from __future__ import annotations

import heapq
import os
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
import xxhash

from interactrank.features.schema import HISTORY_LENGTH
from prerank.core.errors import DataError
from prerank.core.files import sync_folder
from prerank.online.dead_letters import DeadLetters
from prerank.online.history import Event
from prerank.online.journal import replay, write_lines
from prerank.online.records import ACKNOWLEDGED, event_of, record_of
from prerank.online.segments import Segment, found_segments, live_segments, segment_name

DAY_S = 86_400
PART_BYTES, MAX_PARTS = 16 << 20, 256


@dataclass(frozen=True)
class JournalConfig:
    """How much of the journals is kept.

    Attributes:
        days: an event is removed this long after it was acknowledged, within two days; None keeps
            what a replay needs for ever.
        segment_bytes: at this length a segment ends and another one begins.
    """

    days: float | None = 90.0
    segment_bytes: int = 64 << 20


def is_due(segments: Sequence[Segment], config: JournalConfig, now: float) -> bool:
    """Whether it is time to compact a shard that has these live ``segments``."""
    sizes = {s: s.path.stat().st_size for s in segments}
    kept = sum(size for s, size in sizes.items() if s.compact)
    appended = sum(sizes.values()) - kept
    if appended >= max(kept, config.segment_bytes):
        return True
    ages = bool(appended or (kept and config.days is not None))
    return ages and now - min(s.number for s in segments) >= DAY_S


def compact(
    folder: Path,
    shard: int,
    number: int,
    passive: Collection[str],
    days: float | None,
    dead: DeadLetters,
) -> tuple[str, int]:
    """Put one segment in the place of all of a shard's; its name and its length in bytes.

    Args:
        folder: of the journals.
        shard: nobody appends to its present segments any more.
        number: of the new segment, above theirs.
        passive: actions that are left out.
        days: None, or how long ago an event may have been acknowledged.
        dead: what is no event is set aside there.

    Raises:
        OSError: the disk refuses; the segments are as they were.
    """
    target = folder / segment_name(shard, number, compact=True)
    segments = [s for s in live_segments(folder) if s.shard == shard and s.number < number]
    since = 0.0 if days is None else time.time() - days * DAY_S
    size = sum(s.path.stat().st_size for s in segments)
    _remove_leftovers(folder, shard)
    count = min(size // PART_BYTES + 1, MAX_PARTS)
    with TemporaryDirectory(dir=folder, prefix=_parts_prefix(shard)) as parts:
        split = [Path(parts) / f"{i}.jsonl" for i in range(count)]
        _split(_records(segments, dead), split, passive, since)
        length = write_lines(target, (line for part in split for line in _needed_lines(part)))
    for segment in found_segments(folder):
        if segment.shard == shard and (segment.number, segment.compact) < (number, True):
            segment.path.unlink()
    sync_folder(folder)
    return target.name, length


def needed(events: Sequence[Event]) -> list[int]:
    """Which of one user's events, in the order in which they were told, a replay needs."""
    # As in history.merged: the first telling counts, or the first that tells the query.
    told: dict[int, int] = {}
    for i, event in enumerate(events):
        first = told.setdefault(event.event_id, i)
        if event.query and not events[first].query:
            told[event.event_id] = i
    by_action: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for i in told.values():
        by_action[events[i].action].append((events[i].time, events[i].event_id, i))
    last = (heapq.nlargest(HISTORY_LENGTH, rows) for rows in by_action.values())
    return sorted(i for rows in last for *_, i in rows)


def _records(segments: Sequence[Segment], dead: DeadLetters) -> Iterator[tuple[Event, int]]:
    """Each event with when it was acknowledged, in seconds since 1970."""
    for segment in segments:
        with segment.path.open("rb") as file:
            # What was acknowledged before records told when is no younger than its file.
            written = int(os.fstat(file.fileno()).st_mtime)
            for records, _ in replay(file):
                for record in records:
                    try:
                        yield event_of(record), record.get(ACKNOWLEDGED, written)
                    except DataError as error:
                        dead.add([(record, str(error))])


def _split(
    records: Iterable[tuple[Event, int]], paths: list[Path], passive: Collection[str], since: float
) -> None:
    """Write the records that may be needed; a user's are in one of ``paths``, in their order."""
    with ExitStack() as stack:
        parts = [stack.enter_context(path.open("wb")) for path in paths]
        for event, at in records:
            if event.action not in passive and at >= since:
                part = xxhash.xxh3_64_intdigest(event.user_id, seed=1) % len(parts)
                parts[part].write(orjson.dumps(record_of(event, at)) + b"\n")


def _needed_lines(part: Path) -> Iterator[bytes]:
    by_user: dict[str, tuple[list[Event], list[bytes]]] = {}
    with part.open("rb") as file:
        for line in file:
            event = event_of(orjson.loads(line))
            events, lines = by_user.setdefault(event.user_id, ([], []))
            events.append(event)
            lines.append(line)
    for events, lines in by_user.values():
        for i in needed(events):
            yield lines[i]


def _parts_prefix(shard: int) -> str:
    return f".compact-{shard:03d}-"


def _remove_leftovers(folder: Path, shard: int) -> None:
    """Remove what a process that was killed while it compacted this shard left."""
    for parts in folder.glob(f"{_parts_prefix(shard)}*"):
        for file in parts.iterdir():
            file.unlink()
        parts.rmdir()
    for partial in folder.glob(f".writer-{shard:03d}-*.partial"):
        partial.unlink()
