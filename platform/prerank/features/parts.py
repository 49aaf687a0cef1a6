"""Parts of a table put together, so that the number of its files stays bounded.

A build writes a part of its own in each shard and changes no older one. When a shard has MAX_PARTS,
its newest ones become one: the same rows, in a file. Which ones is chosen so that their sizes stay
about geometric, and a row is therefore written again at most some log2(builds / MAX_PARTS) times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prerank.core.shards import LazyParquet, parts_of
from prerank.features.keyed import ranked
from prerank.features.row_groups import KeyGroups

MAX_PARTS = 32
"""Parts of a shard that are left as they are."""


def to_merge(sizes: Sequence[int], limit: int = MAX_PARTS) -> int:
    """From which of the parts on, oldest first, all become one; len(sizes) for none.

    Of more than ``limit`` parts the newest: each that is not larger than all newer ones together.
    """
    if len(sizes) <= limit:
        return len(sizes)
    first = len(sizes) - 1
    newer = sizes[first]
    while first > 0 and (sizes[first - 1] <= newer or len(sizes) - first < 2):
        first -= 1
        newer += sizes[first]
    return first


def bounded(
    folder: Path, shard: int, names: Sequence[str], latest: bool = False, limit: int = MAX_PARTS
) -> None:
    """Merge parts of a shard's table if it has more than ``limit``.

    Args:
        folder: of the table.
        shard: which one.
        names: columns of repeated values (``LazyParquet``). The first is the one that the rows are
            sorted by; of one key, parts stand in order of time.
        latest: of each key the newest row alone stays.
        limit: parts that are left as they are.
    """
    parts = parts_of(folder, shard)
    first = to_merge([(folder / part.file).stat().st_size for part in parts], limit)
    old = parts[first:]
    if not old:
        return
    files, key = [folder / part.file for part in old], names[0]
    with ExitStack() as stack:
        merged = replace(old[0], until=old[-1].until)
        writer = LazyParquet(stack, folder / merged.file, names)
        for rows in merged_rows(files, key):
            writer.write(newest(rows, key) if latest else rows)
    for file in files:
        file.unlink()


def merged_rows(files: Sequence[Path], key: str) -> Iterator[pa.Table]:
    """Rows of files sorted by ``key``, in tables that ascend by it; those of one key stay together.

    Of one key, rows come in the order of the files. Holds a row group of each file, and one key's
    rows.
    """
    with ExitStack() as stack:
        readers = [_Sorted(stack.enter_context(pq.ParquetFile(file)), key) for file in files]
        while sum(reader.fill() for reader in readers):
            # A key of which a file may have more to come waits for it.
            limit = min((r.last for r in readers if not r.ended), default=None)
            taken = [reader.take(limit) for reader in readers]
            rows = pa.concat_tables([t for t in taken if len(t)] or taken[:1])
            if len(rows):
                _, code = ranked(rows[key])
                yield rows.take(pa.array(np.argsort(code, kind="stable")))
            else:
                for reader in readers:
                    if reader.last == limit:
                        reader.more()


class _Sorted:
    """Rows of a file that were read and not yet taken."""

    def __init__(self, file: pq.ParquetFile, key: str) -> None:
        self._file, self._key = file, key
        self._group = 0
        self._rows = file.schema_arrow.empty_table()

    @property
    def ended(self) -> bool:
        """Whether no rows are to come after those that were read."""
        return self._group == self._file.num_row_groups

    @property
    def last(self) -> str:
        """The last key that was read."""
        return str(self._rows[self._key][-1]) if len(self._rows) else ""

    def fill(self) -> bool:
        """Read on if no rows are there; whether there are some then."""
        if not len(self._rows) and not self.ended:
            self.more()
        return bool(len(self._rows))

    def more(self) -> None:
        """Read a row group."""
        if not self.ended:
            table = self._file.read_row_group(self._group, use_threads=False)
            self._rows = pa.concat_tables([self._rows, table])
            self._group += 1

    def take(self, limit: str | None) -> pa.Table:
        """The rows of keys before ``limit``; all for None."""
        rows = self._rows
        if limit is not None:
            keys = rows[self._key]
            count = pc.sum(pc.less(keys, limit)).as_py() or 0
            rows = rows.slice(0, count)
        self._rows = self._rows.slice(len(rows))
        return rows


def newest(rows: pa.Table, key: str) -> pa.Table:
    """The last row of each key of a table sorted by ``key``."""
    _, code = ranked(rows[key])
    return rows.take(pa.array(np.flatnonzero(np.diff(code, append=-1))))


def latest_of(folder: Path, shard: int, key: str, wanted: pa.Array) -> pa.Table | None:
    """The newest row of each of the ascending keys ``wanted`` in a shard's table, in no order.

    None where the table has no file. Reads the row groups that may hold keys which no newer part
    has.
    """
    found: list[pa.Table] = []
    missing = wanted
    for part in reversed(parts_of(folder, shard)):
        with pq.ParquetFile(folder / part.file) as file:
            groups = KeyGroups.of(file, key).holding(missing.to_pylist())
            table = file.read_row_groups(groups, use_threads=False)
        rows = table.filter(pc.is_in(table[key], missing))
        found.append(rows)
        if len(rows):
            missing = missing.filter(pc.invert(pc.is_in(missing, rows[key].combine_chunks())))
        if not len(missing):
            break
    return pa.concat_tables(found) if found else None
