"""What an ingest did to each day of the log, and which days the next one leaves as they are.

A day's folder of events is written whole or taken over from the log of before, file by file. It is
written where new rows fall on it, or repeat an event of it; so a day that is added to a long log
costs the day. What is known of each day stands in ``days.json`` beside the events, so that the
days that are taken over need not be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.dataset as pads

from prerank.core.files import linked, read_json, write_json
from prerank.core.home import Home
from prerank.core.settings import typed
from prerank.core.sql import connection
from prerank.core.times import DAY_US
from prerank.ingest.existing import Existing

WRAP = 1 << 64
_FILE = "days.json"


@dataclass(frozen=True)
class DayCounts:
    """Rows of a day, or of a part of it.

    Attributes:
        rows: that stay; ``new`` of them are new to the home.
        late: new rows that are older than what was published.
        content: sum of row hashes modulo 2^64.
        first, last: least request time and greatest event time, microseconds since 1970.
        actions: of the rows, sorted.
    """

    rows: int
    new: int
    late: int
    content: int
    first: int
    last: int
    actions: tuple[str, ...]

    def __add__(self, other: DayCounts) -> DayCounts:
        return DayCounts(
            self.rows + other.rows,
            self.new + other.new,
            self.late + other.late,
            (self.content + other.content) % WRAP,
            min(self.first, other.first),
            max(self.last, other.last),
            tuple(sorted({*self.actions, *other.actions})),
        )


Days = Mapping[str, DayCounts]
"""By day, as in the names of folders: "2024-03-01"."""


def merged(parts: Iterable[Days]) -> dict[str, DayCounts]:
    """Counts of days of which each has some of the rows."""
    found: dict[str, DayCounts] = {}
    for part in parts:
        for day, counts in part.items():
            found[day] = found[day] + counts if day in found else counts
    return found


def name_of(day: int) -> str:
    """Name of a day that is counted from 1970."""
    return str(np.datetime64(day, "D"))


def day_of(file: Path) -> str:
    """Day of a file of canonical events."""
    return file.parent.name.removeprefix("day=")


def save(home: Home, days: Days) -> None:
    """Write down what is known of each day of the log that is written."""
    write_json(home.log / _FILE, {day: asdict(counts) for day, counts in days.items()})


def known_days(home: Home) -> dict[str, DayCounts]:
    """What is known of each day of the log; nothing of a log of an earlier release."""
    path = home.log / _FILE
    if not path.exists():
        return {}
    return {day: typed(DayCounts, data, what=str(path)) for day, data in read_json(path).items()}


def kept_days(known: Days, existing: Existing, buckets: Path) -> dict[str, DayCounts]:
    """Days of the log of before that new rows change nothing of; none of their rows is new.

    Args:
        known: of the log of before.
        existing: what it holds.
        buckets: the folder of the new rows.
    """
    if not known:
        return {}
    with connection(threads=2) as db:
        db.register("new_rows", pads.dataset(str(buckets), format="ipc"))
        touched = {
            name_of(day)
            for (day,) in db.execute(
                f"SELECT DISTINCT request_time // {DAY_US} FROM new_rows"
            ).fetchall()
        }
        others = [str(f) for f in existing.files if day_of(f) not in touched]
        if others:
            repeated = db.execute(
                """SELECT DISTINCT filename FROM read_parquet(
                    $files, filename = true, hive_partitioning = false)
                WHERE event_id IN (SELECT event_id FROM new_rows)""",
                {"files": others},
            ).fetchall()
            touched |= {day_of(Path(file)) for (file,) in repeated}
    return {
        day: replace(counts, new=0, late=0) for day, counts in known.items() if day not in touched
    }


def take_over(existing: Existing, days: Iterable[str], events: Path) -> None:
    """Put the files of some days of before into the folder ``events`` too."""
    wanted = set(days)
    for file in existing.files:
        if day_of(file) in wanted:
            linked(file, events / file.parent.name / file.name)


def without(existing: Existing, days: Iterable[str]) -> Existing:
    """What a home holds, but for the files of some days."""
    gone = set(days)
    left = [
        (file, rows)
        for file, rows in zip(existing.files, existing.rows, strict=True)
        if day_of(file) not in gone
    ]
    return replace(existing, files=tuple(f for f, _ in left), rows=tuple(n for _, n in left))
