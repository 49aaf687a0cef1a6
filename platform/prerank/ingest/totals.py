"""What an ingest counts over the whole canonical log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from prerank.core.errors import DataError
from prerank.core.sql import connection
from prerank.core.times import DAY_US
from prerank.ingest.buckets import STAGE_MEMORY


def totals_of(events: Path, scratch: Path) -> dict[str, Any]:
    """Distinct counts over the canonical events; DuckDB spills, so that memory stays bounded.

    Raises:
        DataError: a request has two users, queries or times, which no later step could undo.
    """
    log = "read_parquet($files, hive_partitioning = false)"
    files = {"files": [str(file) for file in sorted(events.glob("*/*.parquet"))]}
    with connection(threads=2, memory=STAGE_MEMORY, spill=scratch / "spill") as db:
        days = db.execute(
            f"""SELECT day, count(*), count(*) FILTER (WHERE split),
                min(request_id) FILTER (WHERE split)
            FROM (SELECT request_id, epoch_us(min(request_time)) // {DAY_US} AS day,
                min(said) <> max(said) AS split
                FROM (SELECT request_id, request_time,
                    hash(request_time, user_id, query) AS said FROM {log})
                GROUP BY request_id) GROUP BY day ORDER BY day""",
            files,
        ).fetchall()
        requests, split = (sum(row[column] for row in days) for column in (1, 2))
        if split:
            example = min(row[3] for row in days if row[2])
            raise DataError(
                f"{split:,} of {requests:,} requests (such as {example!r}) have more than one "
                "user, query or request time. Map request_id to the column that tells single "
                "searches apart, or set `request_id: null`: it is then derived from the three."
            )
        users, queries = (
            db.execute(f"SELECT count(DISTINCT {name}) FROM {log}", files).fetchall()[0][0]
            for name in ("user_id", "query")
        )
        positions = db.execute(
            f"SELECT count(*) FROM {log} WHERE action = 'impression' AND position IS NOT NULL",
            files,
        ).fetchall()[0][0]
        items = db.execute(f"SELECT DISTINCT item_id FROM {log}", files).fetchall()
    return {
        "requests": requests,
        "requests_per_day": {str(np.datetime64(day, "D")): count for day, count, *_ in days},
        "users": users,
        "queries": queries,
        "item_keys": [key for (key,) in items],
        "positions": positions > 0,
    }
