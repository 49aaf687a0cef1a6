"""The point-in-time join over feature tables: the latest row of a key at or before a time.

Semantics are Feast's (``get_historical_features`` is the specification, and a test compares the
two): a row stamped t is seen by a request at t. Tables therefore stamp a row that includes an
event at s with s + 1 microsecond or later.

Only files of the wanted keys' shards are opened, and of them only the row groups whose statistics
admit a wanted key at a wanted time. Blocks are fetched once however many requests share them: a
million requests would otherwise carry hundreds of gigabytes of repeated rows.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
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
from prerank.core.shards import shard_named, shard_of
from prerank.core.times import micros

MISSING = -1
STAMP = "event_timestamp"
_NONE = np.zeros(0, np.int64)


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
    encoded, asked_us = asked.dictionary_encode(), micros(times)
    paths = sorted(folder.glob("*.parquet"))
    if not paths:
        raise StateError(f"{folder} holds no feature files. Run `prerank features`.")
    until = int(asked_us.max()) if len(asked_us) else 0
    files = _with_keys(paths, encoded.dictionary)
    found = [_stamps(file, key_column, until) for file in files]
    code, stamp, row = (np.concatenate([_NONE, *(f[i] for f in found)]) for i in range(3))
    of_file = np.repeat(np.arange(len(files)), [len(f[0]) for f in found])
    order = np.lexsort((stamp, code))
    bounds = np.searchsorted(code[order], np.arange(len(encoded.dictionary) + 1))
    at = _latest(encoded.indices.to_numpy().astype(np.int64), asked_us, bounds, stamp[order])
    # Ascending, so the rows of a file stand together and in its order, in which they are fetched.
    chosen, index = np.unique(order[at[at >= 0]], return_inverse=True)
    names = [STAMP, *columns]
    values = [pq.read_schema(paths[0]).empty_table().select(names)]
    for number, file in enumerate(files):
        values += _fetch(file.path, row[chosen[of_file[chosen] == number]], names)
    out = np.full(len(asked), MISSING, np.int64)
    out[at >= 0] = index.reshape(-1)
    return AsOf(out, pa.concat_tables(values))


@dataclass(frozen=True)
class _File:
    """A file that may hold some of the asked keys: those, and their codes int64."""

    path: Path
    keys: pa.Array
    codes: NDArray[np.int64]


def _with_keys(paths: list[Path], keys: pa.Array) -> list[_File]:
    """The files that may hold ``keys``, going by their names; one without a shard may hold any."""
    texts = keys.to_pylist()
    shards: dict[int, NDArray[np.int64]] = {}
    files = []
    for path in paths:
        codes = np.arange(len(texts))
        if (named := shard_named(path.name)) is not None:
            shard, count = named
            if count not in shards:
                shards[count] = np.array([shard_of(k, count) for k in texts], np.int64)
            codes = np.flatnonzero(shards[count] == shard)
        if len(codes):
            files.append(_File(path, keys.take(pa.array(codes)), codes))
    return files


def _stamps(
    file: _File, key_column: str, until: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Key code, stamp (microseconds) and number of a file's rows of its keys up to ``until``."""
    with pq.ParquetFile(file.path, read_dictionary=[key_column]) as opened:
        ends = _ends(opened.metadata)
        groups = _groups(opened, sorted(file.keys.to_pylist()), key_column, until)
        if not groups:
            return _NONE, _NONE, _NONE
        table = opened.read_row_groups(groups, columns=[key_column, STAMP], use_threads=False)
    rows = np.concatenate([np.arange(ends[g], ends[g + 1]) for g in groups])
    held = table[key_column].unify_dictionaries().combine_chunks()
    known = pc.index_in(held.dictionary, file.keys).fill_null(MISSING).to_numpy()
    at, stamp = known[held.indices.to_numpy()], micros(table[STAMP])
    keep = np.flatnonzero((at >= 0) & (stamp <= until))
    return file.codes[at[keep]], stamp[keep], rows[keep]


def _ends(metadata: pq.FileMetaData) -> NDArray[np.int64]:
    """Number of the first row of each row group, and of rows: int64 [groups + 1]."""
    sizes = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)))


def _groups(opened: pq.ParquetFile, keys: list[str], key_column: str, until: int) -> list[int]:
    """Row groups that may hold one of the ascending ``keys`` at or before ``until``."""
    names = opened.schema_arrow.names
    key_at, stamp_at = names.index(key_column), names.index(STAMP)
    found = []
    for number in range(opened.metadata.num_row_groups):
        group = opened.metadata.row_group(number)
        key, stamp = group.column(key_at).statistics, group.column(stamp_at).statistics
        if stamp is not None and stamp.has_min_max and stamp.min_raw > until:
            continue
        if key is not None and key.has_min_max:
            low, high = bisect_left(keys, key.min), bisect_right(keys, key.max)
            if low == high:
                continue
        found.append(number)
    return found


def _fetch(path: Path, rows: NDArray[np.int64], columns: list[str]) -> Iterator[pa.Table]:
    """Ascending ``rows`` of a file, a row group at a time."""
    if not len(rows):
        return
    with pq.ParquetFile(path) as opened:
        ends = _ends(opened.metadata)
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
