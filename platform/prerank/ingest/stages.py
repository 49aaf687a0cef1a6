"""The two stages of ingest, as functions over one task of work each. Memory: one batch.

Stage 1 (a range of input rows)  reads, judges and hashes rows; good ones go to Arrow files by
                                 event id modulo the number of buckets, bad ones to quarantine.
                                 Events that the home already has go the same way, unjudged.
Stage 2 (a bucket)               DuckDB keeps one row an event id and streams the rest, ordered by
                                 request, into one Parquet file per day. It spills to disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from prerank.core.errors import DataError
from prerank.core.forgotten import Forgotten
from prerank.core.ids import SEPARATOR, hash_all
from prerank.core.shards import LazyParquet
from prerank.core.sql import connection
from prerank.core.times import DAY_US
from prerank.ingest.days import WRAP, DayCounts, Days, merged, name_of
from prerank.ingest.embeddings import QUARANTINE_SCHEMA
from prerank.ingest.lines import FILE, LINE
from prerank.ingest.ranges import BATCH_ROWS, RowRange, read_range
from prerank.ingest.rows import RowPlan, canonical, good_rows, known_rows, reasons, unreadable

STAGE_MEMORY = "512MB"


@dataclass(frozen=True)
class RowTask:
    """Ranges of rows for stage 1; ``number`` is the task's own."""

    number: int
    ranges: tuple[RowRange, ...]

    def files(self) -> set[Path]:
        """Files that hold the rows."""
        return {each.file for each in self.ranges}


@dataclass(frozen=True)
class RowCounts:
    """Rows that were read, how many of them went to quarantine for each reason, and how many were
    dropped, as their users were forgotten.

    ``unreadable``: canonical column of a candidate feature -> its values that are no number.
    """

    rows: int
    reasons: Mapping[str, int]
    unreadable: Mapping[str, int] = field(default_factory=dict)
    forgotten: int = 0


@dataclass(frozen=True)
class BucketTask:
    """A bucket for stage 2: its number, and the folder of its Arrow files."""

    number: int
    folder: Path


@dataclass(frozen=True)
class BucketCounts:
    """What became of a bucket: its rows by day, and how many repeat an event."""

    days: Days
    duplicates: int


def bad_rows(number: int) -> str:
    """Name of the file in which a task of stage 1 leaves what is no good row."""
    return f"part-{number:05d}.parquet"


def events_file(bucket: int) -> str:
    """Name of the files, one in each day's folder, of a bucket's events."""
    return f"part-{bucket:05d}.parquet"


def split_rows(
    task: RowTask,
    *,
    plan: RowPlan,
    buckets: int,
    scratch: Path,
    quarantine: Path,
    forgotten: Forgotten,
) -> RowCounts:
    """Stage 1. Rows of users who were ``forgotten`` go nowhere, good or bad.

    Raises:
        DataError: a file cannot be read.
    """
    found: Counter[str] = Counter()
    odd: Counter[str] = Counter()
    rows = dropped = 0
    columns = list(dict.fromkeys(plan.columns.values()))
    with ExitStack() as stack:
        writers = _BucketWriters(stack, plan.bucket_schema, buckets, scratch, f"new-{task.number}")
        bad_writer = LazyParquet(stack, quarantine / bad_rows(task.number))
        for each in task.ranges:
            bad: dict[int, str] = {}
            try:
                for at, batch in read_range(each, columns):
                    frame = canonical(batch, plan)
                    why = reasons(frame)
                    odd.update(unreadable(frame, plan))
                    gone = dict.fromkeys(forgotten.rows(frame["user_id"]), "")
                    writers.write(good_rows(frame, why | gone, plan))
                    bad |= {at + row: reason for row, reason in why.items() if row not in gone}
                    rows += len(batch)
                    dropped += len(gone)
                if bad:
                    _quarantine(each, bad, bad_writer)
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"{each.file} cannot be read: {error}. Write it again.") from None
            found.update(bad.values())
    return RowCounts(rows, found, odd, dropped)


def split_known(task: RowTask, *, plan: RowPlan, buckets: int, scratch: Path) -> None:
    """Stage 1 for canonical events of the home."""
    with ExitStack() as stack:
        writers = _BucketWriters(stack, plan.bucket_schema, buckets, scratch, f"old-{task.number}")
        for each in task.ranges:
            for _, batch in read_range(each):
                writers.write(known_rows(batch, plan))


def _quarantine(among: RowRange, bad: dict[int, str], writer: LazyParquet) -> None:
    """Store bad rows whole. A second read, so that good logs never pay for unmapped columns.

    A row of text is named by the line at which it begins.
    """
    for at, batch in read_range(among):
        rows = [row for row in range(at, at + len(batch)) if row in bad]
        if rows:
            originals = batch.take(pa.array([row - at for row in rows])).to_pylist()
            numbers = [o.pop(LINE, row) for o, row in zip(originals, rows, strict=True)]
            files = [o.pop(FILE, among.file.name) for o in originals]
            texts = [orjson.dumps(o, default=str).decode() for o in originals]
            sources = [f"{file}:{number}" for file, number in zip(files, numbers, strict=True)]
            reason = [bad[row] for row in rows]
            writer.write(pa.table([reason, texts, sources], schema=QUARANTINE_SCHEMA))


class _BucketWriters:
    """Arrow files, one a bucket that receives rows; record batches stay as small as they come."""

    def __init__(
        self, stack: ExitStack, schema: pa.Schema, buckets: int, scratch: Path, name: str
    ) -> None:
        self._stack, self._schema, self._buckets = stack, schema, buckets
        self._scratch, self._name = scratch, name
        self._open: dict[int, pa.RecordBatchFileWriter] = {}

    def write(self, rows: pa.Table) -> None:
        bucket = rows["event_id"].to_numpy().view(np.uint64) % np.uint64(self._buckets)
        for number in np.unique(bucket).tolist():
            self._writer(number).write_table(rows.filter(pa.array(bucket == number)))

    def _writer(self, number: int) -> pa.RecordBatchFileWriter:
        if number not in self._open:
            folder = self._scratch / f"{number:05d}"
            folder.mkdir(parents=True, exist_ok=True)
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            writer = pa.ipc.new_file(
                str(folder / f"{self._name}.arrow"), self._schema, options=options
            )
            self._open[number] = self._stack.enter_context(writer)
        return self._open[number]


def publish_bucket(
    task: BucketTask, *, plan: RowPlan, events: Path, published_us: int
) -> BucketCounts:
    """Stage 2.

    Of a repeated event the row that the home already has stays, else the earliest, ties by the
    row's hash: the order of files and rows is of no consequence. A new event counts from
    ``published_us`` on if it is older (``prerank.ingest.existing``).
    """
    log = pads.dataset(str(task.folder), format="ipc")
    days: dict[str, DayCounts] = {}
    spill = task.folder.with_name(f"spill-{task.folder.name}")
    with connection(memory=STAGE_MEMORY, spill=spill) as db:
        db.register("log", log)
        rows = db.sql(
            f"""SELECT * REPLACE (
                    coalesce(known_time, greatest(event_time, {published_us})) AS known_time),
                known_time IS NULL AS new
            FROM ({_one_row_per_event(db)})
            ORDER BY request_time, request_id, event_time, event_id"""
        ).to_arrow_reader(BATCH_ROWS)
        with _DayWriter(events, events_file(task.number), plan.event_schema) as writer:
            for batch in rows:
                for day, part in _by_day(pa.Table.from_batches([batch])):
                    writer.write(day, part)
                    days = merged((days, {day: counts_of(part)}))
    kept = sum(counts.rows for counts in days.values())
    return BucketCounts(days, log.count_rows() - kept)


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


def _one_row_per_event(db: duckdb.DuckDBPyConnection) -> str:
    """SQL of the rows of ``log`` that stay; only those of repeated events are sorted for it."""
    db.execute(
        "CREATE TABLE repeated AS SELECT event_id FROM log GROUP BY event_id HAVING count(*) > 1"
    )
    if db.execute("SELECT count(*) FROM repeated").fetchall() == [(0,)]:
        return "FROM log"
    return """
        SELECT * FROM log WHERE event_id NOT IN (FROM repeated) UNION ALL
        SELECT * FROM log WHERE event_id IN (FROM repeated) QUALIFY row_number() OVER (
            PARTITION BY event_id ORDER BY known_time IS NULL, event_time, content) = 1"""


def _content(rows: pa.Table, late: pa.ChunkedArray) -> int:
    """Sum of row hashes; features depend on when a late event became known, so that enters too."""
    late_rows = rows.filter(late)
    ids, known = (late_rows[name].to_pylist() for name in ("event_id", "known_time"))
    since = hash_all([f"{i}{SEPARATOR}{at}" for i, at in zip(ids, known, strict=True)])
    hashes = np.concatenate((rows["content"].to_numpy(), since)).view(np.uint64)
    return int(np.sum(hashes, dtype=np.uint64))


class _DayWriter:
    """Writes rows that come in the order of request_time to one file per day, one at a time."""

    def __init__(self, events: Path, name: str, schema: pa.Schema) -> None:
        self._events, self._name, self._schema = events, name, schema
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
            self._day, self._writer = day, pq.ParquetWriter(folder / self._name, self._schema)
        self._writer.write_table(rows.select(self._schema.names).cast(self._schema))
