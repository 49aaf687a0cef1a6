"""The point-in-time join over feature tables: the latest row of a key at or before a time.

Semantics are Feast's (``get_historical_features`` is the specification, and a test compares the
two): a row stamped t is seen by a request at t. Tables therefore stamp a row that includes an
event at s with s + 1 microsecond or later.

Blocks are fetched once however many requests share them: a million requests would otherwise
carry hundreds of gigabytes of repeated rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numba as nb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from prerank.duck import connection

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
        times: timestamp[us, UTC] [n].
        columns: what to fetch of each joined row; ``event_timestamp`` is always there.
    """
    asked = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
    encoded = asked.dictionary_encode()
    with connection() as db:
        table = f"read_parquet('{folder}/*.parquet', filename = true, file_row_number = true)"
        db.register(
            "wanted",
            pa.table({"key": encoded.dictionary, "code": np.arange(len(encoded.dictionary))}),
        )
        present = db.sql(
            f"""SELECT code, epoch_us(event_timestamp) AS t, filename AS f, file_row_number AS r
            FROM {table} v JOIN wanted ON v.{key_column} = wanted.key ORDER BY code, t"""
        ).to_arrow_table()
        bounds = np.searchsorted(present["code"].to_numpy(), np.arange(len(encoded.dictionary) + 1))
        at = _latest(
            encoded.indices.to_numpy().astype(np.int64),
            micros(times),
            bounds,
            present["t"].to_numpy(),
        )
        chosen, index = np.unique(at[at >= 0], return_inverse=True)
        found = present.select(["f", "r"]).take(pa.array(chosen))
        db.register("found", found.append_column("n", pa.array(np.arange(len(chosen)))))
        names = ", ".join(f"v.{c}" for c in ("event_timestamp", *columns))
        values = db.sql(
            f"""SELECT {names}, n FROM {table} v
            JOIN found ON v.filename = found.f AND v.file_row_number = found.r ORDER BY n"""
        ).to_arrow_table()
    out = np.full(len(asked), MISSING, np.int64)
    out[at >= 0] = index.reshape(-1)
    return AsOf(out, values.drop_columns(["n"]))


@nb.njit(cache=True, nogil=True)
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


def micros(times: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """timestamp[us] column to int64 microseconds since 1970."""
    return times.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
