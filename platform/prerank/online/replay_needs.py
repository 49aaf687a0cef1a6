"""Which acknowledged events a replay still needs: the rule by which journals are made small.

Of each user and action the last HISTORY_LENGTH events: whichever actions a schema counts as
engagements, the last HISTORY_LENGTH of them are among these. What is exposure in every schema of
the home enters no history.

Events are parted by user into files, so memory holds a part of the users at a time.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import orjson
import xxhash

from interactrank.features.schema import HISTORY_LENGTH
from prerank.online.history import Event
from prerank.online.records import event_of, record_of

PART_BYTES, MAX_PARTS = 16 << 20, 256


class Acknowledged(NamedTuple):
    """An event of a journal.

    Attributes:
        event: what was acknowledged.
        at: when, in seconds since 1970.
        place: in the journal; bytes without a space, which sort as the records stand.
    """

    event: Event
    at: int
    place: bytes = b""


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


def split_by_user(
    records: Iterable[Acknowledged],
    folder: Path,
    size: int,
    passive: Collection[str],
    since: float,
) -> list[Path]:
    """Write the records that may be needed into files of ``folder``; each user's are in one.

    Args:
        records: in the order in which they were acknowledged.
        folder: empty.
        size: about that of all records, in bytes.
        passive: actions that are left out.
        since: what was acknowledged before it is left out, seconds since 1970.
    """
    paths = [folder / f"{i}.jsonl" for i in range(min(size // PART_BYTES + 1, MAX_PARTS))]
    with ExitStack() as stack:
        parts = [stack.enter_context(path.open("wb")) for path in paths]
        for event, at, place in records:
            if event.action not in passive and at >= since:
                part = xxhash.xxh3_64_intdigest(event.user_id, seed=1) % len(parts)
                parts[part].write(place + b" " + orjson.dumps(record_of(event, at)) + b"\n")
    return paths


def needed_lines(part: Path) -> Iterator[tuple[bytes, bytes]]:
    """Place and record (a line of JSON) of what a replay needs of a part, user by user."""
    by_user: dict[str, tuple[list[Event], list[tuple[bytes, bytes]]]] = {}
    with part.open("rb") as file:
        for line in file:
            place, _, record = line.partition(b" ")
            event = event_of(orjson.loads(record))
            events, lines = by_user.setdefault(event.user_id, ([], []))
            events.append(event)
            lines.append((place, record))
    for events, lines in by_user.values():
        for i in needed(events):
            yield lines[i]


def needed_in_order(parts: Sequence[Path]) -> Iterator[tuple[bytes, bytes]]:
    """Place and record of what a replay needs of all parts, by place."""
    for part in parts:
        lines = sorted(needed_lines(part))
        part.write_bytes(b"".join(b"%b %b" % line for line in lines))
    with ExitStack() as stack:
        files = [stack.enter_context(part.open("rb")) for part in parts]
        for line in heapq.merge(*files):
            place, _, record = line.partition(b" ")
            yield place, record
