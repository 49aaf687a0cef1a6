"""Rows of the Parquet files of a log, by ranges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prerank.ingest.lines import LINE

BATCH_ROWS = 65_536


@dataclass(frozen=True)
class RowRange:
    """Rows [start, stop) of a Parquet file."""

    file: Path
    start: int
    stop: int


def read_range(
    rows: RowRange, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, pa.Table]]:
    """The rows of a range in batches, each with the number of its first row in the file.

    Of ``columns``, those that the file lacks are null: JSON lines leave out what is null.
    """
    start, stop = rows.start, rows.stop
    with pq.ParquetFile(rows.file) as file:
        sizes = [file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)]
        ends = np.cumsum(sizes)
        first = int(np.searchsorted(ends, start, side="right"))
        last = int(np.searchsorted(ends, stop, side="left"))
        at = int(ends[first]) - sizes[first] if first < len(sizes) else 0
        groups = list(range(first, min(last + 1, len(sizes))))
        wanted = _present(file, columns)
        for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=wanted):
            low, high = max(start - at, 0), min(stop - at, len(batch))
            if low < high:
                table = pa.Table.from_batches([batch.slice(low, high - low)])
                yield at + low, _filled(table, columns)
            at += len(batch)


def read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    """The columns of a whole file; those that it lacks are null."""
    with pq.ParquetFile(path) as file:
        return _filled(file.read(columns=_present(file, columns)), columns).select(columns)


def _present(file: pq.ParquetFile, columns: Sequence[str] | None) -> list[str] | None:
    if columns is None:
        return None
    # A landed file may have none of them; its rows are counted by their lines.
    return [n for n in file.schema_arrow.names if n in columns or n == LINE]


def _filled(table: pa.Table, columns: Sequence[str] | None) -> pa.Table:
    for name in columns or ():
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), pa.string()))
    return table
