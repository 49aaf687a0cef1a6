"""Files of the feature tables: which holds a key, what it is called, how it is written."""

from __future__ import annotations

import re
import zlib
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

GROUP_BYTES = 1 << 20
_NAME = re.compile(r"shard-(\d+)-of-(\d+)\.parquet")


def shard_of(name: str, shards: int) -> int:
    """The shard of an engagement key or user."""
    return zlib.crc32(name.encode()) % shards


def shard_file(shard: int, shards: int) -> str:
    """Name of a shard's file; ``shard_named`` inverts it."""
    return f"shard-{shard:04d}-of-{shards:04d}.parquet"


def shard_named(file: str) -> tuple[int, int] | None:
    """(shard, shards) of a file's name, None where it does not say."""
    found = _NAME.fullmatch(file)
    return (int(found[1]), int(found[2])) if found else None


class LazyParquet:
    """A Parquet file that comes into being with its first rows.

    Row groups hold about GROUP_BYTES, so that a reader of few rows decodes little beside them.
    """

    def __init__(self, stack: ExitStack, path: Path) -> None:
        self._stack, self._path = stack, path
        self._writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> None:
        """Append rows; none at all leave no file."""
        if not table.num_rows:
            return
        if self._writer is None:
            writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
            self._writer = self._stack.enter_context(writer)
        rows = table.num_rows * GROUP_BYTES // max(table.nbytes, 1)
        self._writer.write_table(table, row_group_size=max(rows, 1))
