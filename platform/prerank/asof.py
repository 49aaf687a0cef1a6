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

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

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
    with duckdb.connect() as db:
        db.execute("SET threads = 1; SET TimeZone = 'UTC'")
        asked = pa.table({"i": np.arange(len(keys)), "key": keys, "t": times})
        db.register("asked", asked)
        table = f"read_parquet('{folder}/*.parquet', filename = true, file_row_number = true)"
        db.execute(
            f"""CREATE TEMP TABLE joined AS
            WITH present AS (
                SELECT {key_column} AS key, event_timestamp, filename AS f, file_row_number AS r
                FROM {table} WHERE {key_column} IN (SELECT DISTINCT key FROM asked))
            SELECT i, f, r FROM asked ASOF JOIN present
            ON asked.key = present.key AND asked.t >= present.event_timestamp"""
        )
        db.execute(
            """CREATE TEMP TABLE wanted AS
            SELECT f, r, row_number() OVER () - 1 AS n FROM (SELECT DISTINCT f, r FROM joined)"""
        )
        names = ", ".join(f"v.{c}" for c in ("event_timestamp", *columns))
        values = db.sql(
            f"""SELECT {names}, n FROM {table} v
            JOIN wanted ON v.filename = wanted.f AND v.file_row_number = wanted.r"""
        ).to_arrow_table()
        pairs = db.execute("SELECT i, n FROM joined JOIN wanted USING (f, r)").fetchnumpy()
    place = np.empty(values.num_rows, np.int64)
    place[values["n"].to_numpy()] = np.arange(values.num_rows)
    index = np.full(len(keys), MISSING, np.int64)
    index[pairs["i"]] = place[pairs["n"]]
    return AsOf(index, values.drop_columns(["n"]))
