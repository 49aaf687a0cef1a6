"""The point-in-time join over feature tables: the latest row of a key at or before a time.

Semantics are Feast's (``get_historical_features`` is the specification, and a test compares the
two): a row stamped t is seen by a request at t. Tables therefore stamp a row that includes an
event at s with s + 1 microsecond or later.

Only files of the wanted keys' shards are opened, the newest first; an older one only for keys that
have a request before the newer ones begin, or no row in them at its time. Of a file, only the row
groups are read whose statistics admit the latest row of a wanted key at a wanted time. What is read
therefore depends on the requests and their keys, and not on how long the log is, save for the
files' footers.

Blocks are fetched once however many requests share them: a million requests would otherwise carry
hundreds of gigabytes of repeated rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from interactrank.kernels import kernel
from prerank.core.errors import StateError
from prerank.core.shards import Part, shard_of
from prerank.core.times import HOUR_US, micros
from prerank.features.keyed import ranked
from prerank.features.row_groups import STAMP, KeyGroups

MISSING = -1


@dataclass(frozen=True)
class AsOf:
    """``index`` int64 [n]: row of ``values`` for each (key, time), -1 where there is none."""

    index: NDArray[np.int64]
    values: pa.Table


def as_of(
    folder: Path, key_column: str, keys: pa.Array, times: pa.Array, columns: tuple[str, ...]
) -> AsOf:
    """Join (key, time) pairs to a feature table.

    Args:
        folder: Parquet files with ``key_column``, ``event_timestamp`` and ``columns``.
        key_column: name of the entity column.
        keys: str [n].
        times: `timestamp[us, UTC]` [n].
        columns: what to fetch of each joined row; ``event_timestamp`` is always there.

    Raises:
        StateError: the folder holds no feature file.
    """
    asked = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
    paths = sorted(folder.glob("*.parquet"))
    if not paths:
        raise StateError(f"{folder} holds no feature files. Run `prerank features`.")
    pairs = _Pairs.of(asked, micros(times))
    files = _files(paths)
    for number, file in enumerate(files):
        pairs.look_into(number, file, key_column)
    return _joined(pairs, files, [STAMP, *columns])


@dataclass(frozen=True)
class _File:
    """A file of a table; ``part`` is what its name says of it, None for nothing."""

    path: Path
    part: Part | None

    def of_shard(self, names: list[str], memo: dict[int, NDArray[np.int64]]) -> NDArray[np.bool_]:
        """Which of ``names`` it may hold, by their shard."""
        if self.part is None:
            return np.ones(len(names), bool)
        count = self.part.shards
        if count not in memo:
            memo[count] = np.array([shard_of(name, count) for name in names], np.int64)
        return memo[count] == self.part.shard


def _files(paths: list[Path]) -> list[_File]:
    """The newest part of each shard first; files without a part in their name before them."""
    files = [_File(path, Part.named(path.name)) for path in paths]
    return sorted(files, key=lambda f: -np.inf if f.part is None else -f.part.after)


@dataclass
class _Pairs:
    """The asked pairs [n], and the latest row found for each so far.

    Attributes:
        names: distinct keys, ascending.
        code: each pair's place in ``names``.
        time: microseconds.
        waiting: whether an older file may still hold a later row than the one that was found.
        file, row, stamp: of the row that was found; file is MISSING for none.
        shards: count of shards -> the shard of each name.
    """

    names: list[str]
    code: NDArray[np.int64]
    time: NDArray[np.int64]
    waiting: NDArray[np.bool_]
    file: NDArray[np.int64]
    row: NDArray[np.int64]
    stamp: NDArray[np.int64]
    shards: dict[int, NDArray[np.int64]]

    @classmethod
    def of(cls, keys: pa.Array, time: NDArray[np.int64]) -> _Pairs:
        names, code = ranked(pa.chunked_array([keys]))
        none = np.full(len(keys), MISSING, np.int64)
        waiting = np.ones(len(keys), bool)
        return cls(names.to_pylist(), code, time, waiting, none, none.copy(), none.copy(), {})

    def look_into(self, number: int, file: _File, key_column: str) -> None:
        """Take the rows of a file, of which there was no newer one of the same shard."""
        here = self.waiting & file.of_shard(self.names, self.shards)[self.code]
        if file.part is not None:
            here &= self.time > file.part.after * HOUR_US
        pairs = np.flatnonzero(here)
        if not len(pairs):
            return
        code, time = self.code[pairs], self.time[pairs]
        wanted, place = np.unique(code, return_inverse=True)
        held_code, stamp, row = _stamps(file.path, key_column, self.names, wanted, place, time)
        order = np.lexsort((stamp, held_code))
        bounds = np.searchsorted(held_code[order], np.arange(len(wanted) + 1))
        at = _latest(place.astype(np.int64), time, bounds, stamp[order])
        found = at >= 0
        chosen, pairs = order[at[found]], pairs[found]
        # Of files that say nothing of their times, the later row counts.
        later = (self.file[pairs] == MISSING) | (stamp[chosen] > self.stamp[pairs])
        chosen, pairs = chosen[later], pairs[later]
        self.file[pairs], self.row[pairs], self.stamp[pairs] = number, row[chosen], stamp[chosen]
        if file.part is not None:
            self.waiting[pairs] = False


def _stamps(
    path: Path,
    key_column: str,
    names: list[str],
    wanted: NDArray[np.int64],
    place: NDArray[np.int64],
    time: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Place in ``wanted``, stamp (microseconds) and number of a file's rows that may be joined."""
    keys = [names[code] for code in wanted]
    first = np.full(len(keys), np.iinfo(np.int64).max)
    last = np.full(len(keys), np.iinfo(np.int64).min)
    np.minimum.at(first, place, time)
    np.maximum.at(last, place, time)
    with pq.ParquetFile(path, read_dictionary=[key_column]) as opened:
        bounds = KeyGroups.of(opened, key_column)
        groups = bounds.latest(keys, first.tolist(), last.tolist())
        if not groups:
            none = np.zeros(0, np.int64)
            return none, none, none
        table = opened.read_row_groups(groups, columns=[key_column, STAMP], use_threads=False)
    rows = np.concatenate([np.arange(bounds.ends[g], bounds.ends[g + 1]) for g in groups])
    held = table[key_column].unify_dictionaries().combine_chunks()
    known = pc.index_in(held.dictionary, pa.array(keys)).fill_null(MISSING).to_numpy()
    at, stamp = known[held.indices.to_numpy()].astype(np.int64), micros(table[STAMP])
    keep = np.flatnonzero((at >= 0) & (stamp <= last[at]))
    return at[keep], stamp[keep], rows[keep]


def _joined(pairs: _Pairs, files: list[_File], names: list[str]) -> AsOf:
    """Fetch each row that was found, once."""
    found = np.flatnonzero(pairs.file >= 0)
    # In the order of files and their rows, in which they are fetched.
    chosen, index = np.unique(pairs.file[found] << 40 | pairs.row[found], return_inverse=True)
    of_file, row = chosen >> 40, chosen & ((1 << 40) - 1)
    values = [pq.read_schema(files[0].path).empty_table().select(names)]
    for number in np.unique(of_file).tolist():
        values += _fetch(files[number].path, row[of_file == number], names)
    out = np.full(len(pairs.file), MISSING, np.int64)
    out[found] = index.reshape(-1)
    return AsOf(out, pa.concat_tables(values))


def _fetch(path: Path, rows: NDArray[np.int64], columns: list[str]) -> Iterator[pa.Table]:
    """Ascending ``rows`` of a file, a row group at a time."""
    with pq.ParquetFile(path) as opened:
        sizes = [opened.metadata.row_group(g).num_rows for g in range(opened.num_row_groups)]
        ends = np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)))
        group = np.searchsorted(ends, rows, side="right") - 1
        for number in np.unique(group).tolist():
            table = opened.read_row_group(number, columns=columns, use_threads=False)
            yield table.take(pa.array(rows[group == number] - ends[number]))


@kernel
def _latest(
    codes: NDArray[np.int64],
    times: NDArray[np.int64],
    bounds: NDArray[np.int64],
    stamps: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Last row of each asked key whose stamp is at or before the asked time, or -1.

    A binary search in the key's own stamps. DuckDB's ASOF join gives the same, but took 84 s for
    80,000 pairs against 1.7 million rows of few keys.
    """
    out = np.empty(codes.size, np.int64)
    for i in range(codes.size):
        low, high = bounds[codes[i]], bounds[codes[i] + 1]
        at = low + np.searchsorted(stamps[low:high], times[i], side="right") - 1
        out[i] = at if at >= low else MISSING
    return out
