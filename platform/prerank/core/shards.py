"""Files of the feature tables: which holds a key, what it is called, how it is written.

A table is divided twice: by key into shards, and by time into parts, one for each build that wrote
rows, or for several builds whose parts were merged since. A file's name says both, so that a reader
opens no file that cannot hold what it looks for.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

GROUP_BYTES = 1 << 20
_NAME = re.compile(r"shard-(\d+)-of-(\d+)-(\d+)-(\d+)\.parquet")


def shard_of(name: str, shards: int) -> int:
    """The shard of an engagement key or user."""
    return zlib.crc32(name.encode()) % shards


@dataclass(frozen=True, order=True)
class Part:
    """What a file of a table holds: the rows of a shard's keys that some cutoffs published.

    Attributes:
        shard, shards: the keys are those of ``shard``, one of ``shards``.
        after, until: hours since 1970. The cutoffs are later than ``after`` and not later than
            ``until``, and no row is stamped at or before ``after``.
    """

    shard: int
    shards: int
    after: int
    until: int

    @property
    def file(self) -> str:
        """The file's name. Names in order are parts in the order of shard and time."""
        shard, span = (self.shard, self.shards), (self.after, self.until)
        return "shard-{:04d}-of-{:04d}-{:07d}-{:07d}.parquet".format(*shard, *span)

    @classmethod
    def named(cls, file: str) -> Part | None:
        """The part of a file's name, None where it does not say."""
        found = _NAME.fullmatch(file)
        return cls(*map(int, found.groups())) if found else None


def parts_of(folder: Path, shard: int) -> list[Part]:
    """A shard's parts in a folder, oldest first."""
    found = (Part.named(path.name) for path in folder.glob(f"shard-{shard:04d}-of-*.parquet"))
    return sorted(part for part in found if part is not None)


class LazyParquet:
    """A Parquet file that comes into being with its first rows.

    Row groups hold about GROUP_BYTES, so that a reader of few rows decodes little beside them.

    Args:
        stack: closes the file.
        path: of the file.
        names: columns that hold the same values again and again, ``list.list.element`` for those
            within lists. They and times have statistics, the others none. None where nobody knows:
            then every column is tried, and has some.
        steps: columns of whole numbers that change little from row to row, as times do.
        level: of zstd. Level 3 finds long repeats, of which packed rows consist, in no more time
            than 1.
    """

    def __init__(
        self,
        stack: ExitStack,
        path: Path,
        names: Sequence[str] | None = None,
        steps: Sequence[str] = (),
        level: int = 3,
    ) -> None:
        self._stack, self._path, self._names, self._steps = stack, path, names, steps
        self._level = level
        self._writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> None:
        """Append rows; none at all leave no file."""
        if not table.num_rows:
            return
        if self._writer is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            writer = pq.ParquetWriter(
                self._path,
                table.schema,
                compression="zstd",
                compression_level=self._level,
                **self._options(table.schema),
            )
            self._writer = self._stack.enter_context(writer)
        rows = table.num_rows * GROUP_BYTES // max(table.nbytes, 1)
        self._writer.write_table(table, row_group_size=max(rows, 1))

    def _options(self, schema: pa.Schema) -> dict[str, Any]:
        if self._names is None:
            return {}
        times = [field.name for field in schema if pa.types.is_timestamp(field.type)]
        times += self._steps
        return {
            # What repeats within other columns are bytes at no fixed distance: zstd finds them in
            # plain values, and not in a dictionary's codes, which are packed by bits.
            "use_dictionary": [*self._names],
            "column_encoding": dict.fromkeys(times, "DELTA_BINARY_PACKED"),
            # Of packed rows they would hold whole rows, twice.
            "write_statistics": [*self._names, *times],
        }
