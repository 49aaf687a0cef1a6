"""Some rows of a log, taken from all over it, as one Arrow table.

A log of up to SAMPLE_ROWS rows is read whole. Of a longer one blocks of neighbouring rows are, so
that the rows of a request, which logs write together, mostly stay together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from prerank.core.errors import DataError
from prerank.core.times import UTC_US
from prerank.ingest.lines import FILE, LINE
from prerank.ingest.parsing import to_text, to_time
from prerank.ingest.ranges import RowRange, read_range
from prerank.ingest.sources import RawFile, Source

SAMPLE_ROWS = 1_000_000
BLOCKS = 50
MAX_FILES = 64
MAX_BYTES = 1 << 30
"""Of files that must be copied or turned into Parquet before they can be read."""

T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """Rows of a table.

    Attributes:
        rows: columns under the team's names; a column of several types is text.
        total: rows of the files that were opened.
        opened, files: files that were opened, of how many.
    """

    rows: pa.Table
    total: int
    opened: int
    files: int

    @property
    def is_whole(self) -> bool:
        """Whether these are all rows that there are."""
        return len(self.rows) == self.total and self.opened == self.files


def chosen_files(raws: Sequence[RawFile]) -> list[RawFile]:
    """Files to open: all of a few, else some that are spread evenly; at least one."""
    found = _spread(raws, MAX_FILES)
    while len(found) > 1 and sum(raw.size for raw in found if not raw.is_ready) > MAX_BYTES:
        found = _spread(found, len(found) // 2)
    return found


def sample_of(source: Source, files: int) -> Sample:
    """Rows of the files of a table that were opened, of ``files`` that it has.

    Raises:
        DataError: a file cannot be read.
    """
    names = list(dict.fromkeys(name for schema in source.schemas for name in schema.names))
    parts = []
    for each in _ranges(source):
        try:
            parts += [batch for _, batch in read_range(each)]
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{each.file} cannot be read: {error}. Write it again.") from None
    columns = {name: _column(parts, name) for name in names if name not in (LINE, FILE)}
    return Sample(pa.table(columns), sum(source.rows), len(set(source.names)), files)


def _spread(values: Sequence[T], limit: int) -> list[T]:
    """At most ``limit`` values at even distances, the first and the last among them."""
    if len(values) <= limit:
        return list(values)
    if limit < 2:
        return list(values[:limit])
    step = (len(values) - 1) / (limit - 1)
    return [values[round(at * step)] for at in range(limit)]


def _ranges(source: Source) -> list[RowRange]:
    total = sum(source.rows)
    if total <= SAMPLE_ROWS:
        return [RowRange(f, 0, n) for f, n in zip(source.files, source.rows, strict=True) if n]
    size = SAMPLE_ROWS // BLOCKS
    found = []
    for block in range(BLOCKS):
        start, at = round(block * (total - size) / (BLOCKS - 1)), 0
        for file, rows in zip(source.files, source.rows, strict=True):
            low, high = max(start - at, 0), min(start + size - at, rows)
            if low < high:
                found.append(RowRange(file, low, high))
            at += rows
    return found


def _column(parts: Sequence[pa.Table], name: str) -> pa.ChunkedArray:
    """A column of all parts; where it has several types, as times or as text."""
    given = [_plain(p[name]) if name in p.column_names else None for p in parts]
    kinds = {c.type for c in given if c is not None and not pa.types.is_null(c.type)}
    if len(kinds) == 1:
        (kind,) = kinds
    elif kinds and all(pa.types.is_timestamp(k) or pa.types.is_date(k) for k in kinds):
        kind = UTC_US
    else:
        kind = pa.string()
    chunks = [
        pa.nulls(len(part), kind) if column is None else _as_kind(column, kind)
        for part, column in zip(parts, given, strict=True)
    ]
    return pa.chunked_array(chunks, kind)


def _plain(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _as_kind(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if array.type == kind:
        return array
    if pa.types.is_null(array.type) or pa.types.is_nested(array.type):
        return pa.nulls(len(array), kind)
    return to_time(array, None) if kind == UTC_US else to_text(array)
