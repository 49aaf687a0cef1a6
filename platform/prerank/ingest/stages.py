"""The two stages of ingest, as functions over one task of work each. Memory: one batch.

Stage 1 (a range of input rows)  reads, judges and hashes rows; good ones go to Arrow files by
                                 event id modulo the number of buckets, bad ones to quarantine.
                                 Events that the home already has go the same way, unjudged.
Stage 2 (a bucket)               DuckDB keeps one row an event id and streams the rest, ordered by
                                 request, into one Parquet file a day. It spills to disk.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from prerank.core.errors import DataError
from prerank.core.ids import SEPARATOR, hash_all
from prerank.core.shards import LazyParquet
from prerank.core.sql import connection
from prerank.core.times import DAY_US
from prerank.ingest.embeddings import QUARANTINE_SCHEMA
from prerank.ingest.rows import RowPlan, canonical, good_rows, known_rows, reasons

BATCH_ROWS = 65_536
STAGE_MEMORY = "512MB"
WRAP = 1 << 64


def read_range(
    path: Path, start: int, stop: int, columns: list[str] | None = None
) -> Iterator[tuple[int, pa.Table]]:
    """Rows [start, stop) of a Parquet file in batches, each with the number of its first row."""
    with pq.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)]
        ends = np.cumsum(sizes)
        first = int(np.searchsorted(ends, start, side="right"))
        last = int(np.searchsorted(ends, stop, side="left"))
        at = int(ends[first]) - sizes[first] if sizes else 0
        groups = list(range(first, min(last + 1, len(sizes))))
        for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=columns):
            low, high = max(start - at, 0), min(stop - at, len(batch))
            if low < high:
                yield at + low, pa.Table.from_batches([batch.slice(low, high - low)])
            at += len(batch)


def split_rows(
    task: dict[str, Any], *, plan: RowPlan, buckets: int, scratch: Path, quarantine: Path
) -> dict[str, Any]:
    """Stage 1. ``task``: ``at`` (its number) and ``ranges`` (JSON: [[path, start, stop], ...]).

    Returns ``counts``, JSON of {"in": n, "quarantined": n, "reasons": {reason: n}}.
    """
    found: Counter[str] = Counter()
    rows = 0
    columns = list(dict.fromkeys(plan.columns.values()))
    with ExitStack() as stack:
        writers = _BucketWriters(stack, plan.bucket_schema, buckets, scratch, f"new-{task['at']}")
        bad_writer = LazyParquet(stack, quarantine / f"part-{task['at']:05d}.parquet")
        for name, start, stop in json.loads(task["ranges"]):
            bad: dict[int, str] = {}
            try:
                for at, batch in read_range(Path(name), start, stop, columns):
                    frame = canonical(batch, plan)
                    why = reasons(frame)
                    writers.write(good_rows(frame, why, plan))
                    bad |= {at + row: reason for row, reason in why.items()}
                    rows += len(batch)
                if bad:
                    _quarantine(Path(name), start, stop, bad, bad_writer)
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"{name} cannot be read: {error}. Write it again.") from None
            found.update(bad.values())
    counts = {"in": rows, "quarantined": found.total(), "reasons": found}
    return {"counts": json.dumps(counts)}


def split_known(
    task: dict[str, Any], *, plan: RowPlan, buckets: int, scratch: Path
) -> dict[str, Any]:
    """Stage 1 for canonical events of the home; ``task`` as in :func:`split_rows`."""
    rows = 0
    with ExitStack() as stack:
        writers = _BucketWriters(stack, plan.bucket_schema, buckets, scratch, f"old-{task['at']}")
        for name, start, stop in json.loads(task["ranges"]):
            for _, batch in read_range(Path(name), start, stop):
                writers.write(known_rows(batch, plan))
                rows += len(batch)
    return {"rows": rows}


def _quarantine(
    path: Path, start: int, stop: int, bad: dict[int, str], writer: LazyParquet
) -> None:
    """Store bad rows whole. A second read, so that good logs never pay for unmapped columns."""
    for at, batch in read_range(path, start, stop):
        rows = [row for row in range(at, at + len(batch)) if row in bad]
        if rows:
            originals = batch.take(pa.array([row - at for row in rows])).to_pylist()
            texts = [orjson.dumps(o, default=str).decode() for o in originals]
            sources = [f"{path.name}:{row}" for row in rows]
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
    task: dict[str, Any], *, plan: RowPlan, scratch: Path, events: Path, published_us: int
) -> dict[str, Any]:
    """Stage 2. ``task``: ``bucket`` (its number).

    Of a repeated event the row that the home already has stays, else the earliest, ties by the
    row's hash: the order of files and rows is of no consequence. A new event counts from
    ``published_us`` on if it is older (:mod:`prerank.ingest.existing`).

    Returns ``counts``, JSON of {"new", "old" (rows that stay, new to the home or not),
    "duplicates", "late" (new ones older than ``published_us``), "content" (sum of row hashes modulo
    2^64), "first", "last" (request and event time, microseconds), "actions": {action: rows}}.
    """
    number = task["bucket"]
    log = pads.dataset(str(scratch / f"{number:05d}"), format="ipc")
    found: Counter[str] = Counter()
    actions: Counter[str] = Counter()
    first, last = None, None
    with connection(memory=STAGE_MEMORY, spill=scratch / f"spill-{number:05d}") as db:
        db.register("log", log)
        rows = db.sql(
            f"""WITH kept AS (
                SELECT * FROM log QUALIFY row_number() OVER (
                    PARTITION BY event_id ORDER BY known_time IS NULL, event_time, content) = 1)
            SELECT * REPLACE (
                    coalesce(known_time, greatest(event_time, {published_us})) AS known_time),
                kept.known_time IS NULL AS new
            FROM kept ORDER BY request_time, request_id, event_time, event_id"""
        ).to_arrow_reader(BATCH_ROWS)
        with _DayWriter(events, f"part-{number:05d}.parquet", plan.event_schema) as writer:
            for batch in rows:
                table = pa.Table.from_batches([batch])
                writer.write(table)
                late = pc.greater(table["known_time"], table["event_time"])
                found["out"] += len(table)
                found["new"] += pc.sum(table["new"]).as_py()
                found["late"] += pc.sum(pc.and_(late, table["new"])).as_py()
                found["content"] += _content(table, late)
                low, high = (
                    pc.min(table["request_time"]).as_py(),
                    pc.max(table["event_time"]).as_py(),
                )
                first = low if first is None else min(first, low)
                last = high if last is None else max(last, high)
                for each in pc.value_counts(table["action"]).to_pylist():
                    actions[each["values"]] += each["counts"]
    counts = {
        **{name: found[name] for name in ("new", "late")},
        "old": found["out"] - found["new"],
        "duplicates": log.count_rows() - found["out"],
        "content": found["content"] % WRAP,
        "first": first,
        "last": last,
        "actions": actions,
    }
    return {"counts": json.dumps(counts)}


def _content(rows: pa.Table, late: pa.ChunkedArray) -> int:
    """Sum of row hashes; features depend on when a late event became known, so that enters too."""
    late_rows = rows.filter(late)
    ids, known = (late_rows[name].to_pylist() for name in ("event_id", "known_time"))
    since = hash_all([f"{i}{SEPARATOR}{at}" for i, at in zip(ids, known, strict=True)])
    hashes = np.concatenate((rows["content"].to_numpy(), since)).view(np.uint64)
    return int(np.sum(hashes, dtype=np.uint64))


class _DayWriter:
    """Writes rows that come in the order of request_time to one file a day, one open at a time."""

    def __init__(self, events: Path, name: str, schema: pa.Schema) -> None:
        self._events, self._name, self._schema = events, name, schema
        self._day: int | None = None
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> _DayWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, rows: pa.Table) -> None:
        days = rows["request_time"].to_numpy() // DAY_US
        starts = np.flatnonzero(np.diff(days, prepend=days[0] - 1)).tolist()
        for start, stop in zip(starts, [*starts[1:], len(days)], strict=True):
            self._turn_to(int(days[start]))
            part = rows.slice(start, stop - start).select(self._schema.names)
            assert self._writer is not None
            self._writer.write_table(part.cast(self._schema))

    def _turn_to(self, day: int) -> None:
        if day == self._day:
            return
        if self._writer is not None:
            self._writer.close()
        folder = self._events / f"day={np.datetime64(day, 'D')}"
        folder.mkdir(parents=True, exist_ok=True)
        self._day, self._writer = day, pq.ParquetWriter(folder / self._name, self._schema)
