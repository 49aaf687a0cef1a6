"""The first stage of ingest, as functions over one task of work each. Memory: one batch.

A range of input rows is read, judged and hashed; good rows go to Arrow files by event id modulo the
number of buckets, bad ones to quarantine. Events that the home already has go the same way,
unjudged. The second stage is ``prerank.ingest.buckets``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa

from prerank.core.errors import DataError
from prerank.core.forgotten import Forgotten
from prerank.core.shards import LazyParquet
from prerank.ingest.embeddings import QUARANTINE_SCHEMA
from prerank.ingest.lines import FILE, LINE
from prerank.ingest.ranges import RowRange, read_range
from prerank.ingest.rows import RowPlan, canonical, good_rows, known_rows, reasons, unreadable


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


def bad_rows(number: int) -> str:
    """Name of the file in which a task of stage 1 leaves what is no good row."""
    return f"part-{number:05d}.parquet"


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
