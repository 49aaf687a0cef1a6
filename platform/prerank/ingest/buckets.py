"""The second stage of ingest: a bucket's rows, one an event id, to one Parquet file per day.

A bucket is sorted in memory. One that is far larger than it should be, since its rows repeat a few
events again and again, is left to DuckDB, which spills to disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from prerank.core.ids import SEPARATOR, hash_all
from prerank.core.sql import connection
from prerank.core.times import DAY_US
from prerank.ingest.days import WRAP, DayCounts, Days, merged, name_of
from prerank.ingest.ranges import BATCH_ROWS
from prerank.ingest.rows import RowPlan

BUCKET_ROWS = 1_000_000
"""Of a bucket, as ingest plans them."""
SORTED_ROWS, SORTED_BYTES = 2 * BUCKET_ROWS, 512 << 20
"""A bucket of more rows, or larger ones, is not sorted in memory."""
STAGE_MEMORY = "512MB"


@dataclass(frozen=True)
class BucketTask:
    """A bucket: its number, and the folder of its Arrow files."""

    number: int
    folder: Path


@dataclass(frozen=True)
class BucketCounts:
    """What became of a bucket: its rows by day, and how many repeat an event."""

    days: Days
    duplicates: int


def events_file(bucket: int) -> str:
    """Name of the files, one in each day's folder, of a bucket's events."""
    return f"part-{bucket:05d}.parquet"


def publish_bucket(
    task: BucketTask, *, plan: RowPlan, events: Path, published_us: int
) -> BucketCounts:
    """Write a bucket's events.

    Of a repeated event the row that the home already has stays, else the earliest, ties by the
    row's hash: the order of files and rows is of no consequence. A new event counts from
    ``published_us`` on if it is older (``prerank.ingest.existing``).
    """
    log = pads.dataset(str(task.folder), format="ipc")
    rows = log.count_rows()
    days: dict[str, DayCounts] = {}
    with _DayWriter(events, events_file(task.number), plan) as writer:
        for part in _in_order(log, rows, task.folder):
            for day, own in _by_day(_counted_from(part, published_us)):
                writer.write(day, own)
                days = merged((days, {day: counts_of(own)}))
    return BucketCounts(days, rows - sum(counts.rows for counts in days.values()))


def _in_order(log: pads.Dataset, rows: int, folder: Path) -> Iterator[pa.Table]:
    """One row an event, ordered by request, in tables of some of them."""
    if rows <= SORTED_ROWS:
        table = log.to_table()
        if table.nbytes <= SORTED_BYTES:
            yield _sorted(table)
            return
        del table
    yield from _spilled(log, folder)


def _sorted(rows: pa.Table) -> pa.Table:
    rows = _one_row_per_event(rows)
    keys = ("request_time", "request_id", "event_time", "event_id")
    return rows.take(pc.sort_indices(rows, [(key, "ascending") for key in keys]))


def _one_row_per_event(rows: pa.Table) -> pa.Table:
    ids = np.sort(rows["event_id"].to_numpy())
    repeated = np.unique(ids[1:][ids[1:] == ids[:-1]])
    if not len(repeated):
        return rows
    is_repeated = pc.is_in(rows["event_id"], pa.array(repeated))
    among = np.flatnonzero(is_repeated.to_numpy())
    several = rows.take(pa.array(among))
    event, happened, content = (
        several[name].to_numpy() for name in ("event_id", "event_time", "content")
    )
    order = np.lexsort((content, happened, several["known_time"].is_null().to_numpy(), event))
    is_first = np.diff(event[order], prepend=event[order[0]] - 1) != 0
    stays = np.ones(len(rows), np.bool_)
    stays[among[order[~is_first]]] = False
    return rows.filter(pa.array(stays))


def _spilled(log: pads.Dataset, folder: Path) -> Iterator[pa.Table]:
    spill = folder.with_name(f"spill-{folder.name}")
    with connection(memory=STAGE_MEMORY, spill=spill) as db:
        db.register("log", log)
        rows = db.sql(
            """SELECT * FROM log QUALIFY row_number() OVER (
                PARTITION BY event_id ORDER BY known_time IS NULL, event_time, content) = 1
            ORDER BY request_time, request_id, event_time, event_id"""
        ).to_arrow_reader(BATCH_ROWS)
        for batch in rows:
            yield pa.Table.from_batches([batch])


def _counted_from(rows: pa.Table, published_us: int) -> pa.Table:
    """Rows with their ``known_time``, and whether they are ``new`` to the home: bool."""
    is_new = rows["known_time"].is_null()
    happened = rows["event_time"].to_numpy()
    at = rows.schema.get_field_index("known_time")
    known = pc.coalesce(rows["known_time"], pa.array(np.maximum(happened, published_us)))
    return rows.set_column(at, "known_time", known).append_column("new", is_new)


def _by_day(rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Rows in the order of request_time, a day at a time."""
    days = rows["request_time"].to_numpy() // DAY_US
    starts = np.flatnonzero(np.diff(days, prepend=days[0] - 1)).tolist()
    for start, stop in zip(starts, [*starts[1:], len(days)], strict=True):
        yield name_of(int(days[start])), rows.slice(start, stop - start)


def counts_of(rows: pa.Table) -> DayCounts:
    """What is known of a day's rows, as in a bucket, with ``new`` bool."""
    late = pc.greater(rows["known_time"], rows["event_time"])
    return DayCounts(
        rows=len(rows),
        new=pc.sum(rows["new"]).as_py(),
        late=pc.sum(pc.and_(late, rows["new"])).as_py(),
        content=_content(rows, late) % WRAP,
        first=pc.min(rows["request_time"]).as_py(),
        last=pc.max(rows["event_time"]).as_py(),
        actions=tuple(sorted(pc.unique(rows["action"]).to_pylist())),
    )


def _content(rows: pa.Table, late: pa.ChunkedArray) -> int:
    """Sum of row hashes; features depend on when a late event became known, so that enters too."""
    late_rows = rows.filter(late)
    ids, known = (late_rows[name].to_pylist() for name in ("event_id", "known_time"))
    since = hash_all([f"{i}{SEPARATOR}{at}" for i, at in zip(ids, known, strict=True)])
    hashes = np.concatenate((rows["content"].to_numpy(), since)).view(np.uint64)
    return int(np.sum(hashes, dtype=np.uint64))


class _DayWriter:
    """Writes rows that come in the order of request_time to one file per day, one at a time."""

    def __init__(self, events: Path, name: str, plan: RowPlan) -> None:
        self._events, self._name, self._schema = events, name, plan.event_schema
        # Of other columns a dictionary takes longer to write, and is larger than what it codes.
        self._repeated = ["query", "action", "position", *plan.segments]
        self._day = ""
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> _DayWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, day: str, rows: pa.Table) -> None:
        if day != self._day or self._writer is None:
            if self._writer is not None:
                self._writer.close()
            folder = self._events / f"day={day}"
            folder.mkdir(parents=True, exist_ok=True)
            self._day = day
            self._writer = pq.ParquetWriter(
                folder / self._name, self._schema, use_dictionary=self._repeated
            )
        own = rows.select(self._schema.names).cast(self._schema)
        self._writer.write_table(own, row_group_size=BATCH_ROWS)
