"""Requests with their candidates and labels, from canonical events; and the split by time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from prerank.duck import connection
from prerank.errors import DataError
from prerank.home import Home

SPLITS = ("train", "validation", "test")
SHARES = (0.7, 0.1, 0.2)


@dataclass(frozen=True)
class Splits:
    """Time split by request: a request belongs to the split its request_time falls in.

    ``validation_from`` and ``test_from`` are microseconds since 1970; ``closed_before`` is where
    label windows are no longer closed at the log's end.
    """

    validation_from: int
    test_from: int
    closed_before: int

    def of(self, request_time_us: int) -> str:
        """Split of a request."""
        if request_time_us < self.validation_from:
            return "train"
        return "validation" if request_time_us < self.test_from else "test"


def plan_splits(home: Home, manifest: dict[str, Any]) -> Splits:
    """Thresholds that put 70/10/20 per cent of the eligible requests into the splits.

    Raises:
        DataError: a split would be empty.
    """
    with connection(threads=2) as db:
        window = manifest["label_window_hours"]
        eligible = "bool_or(action = 'impression')" if manifest["has_impressions"] else "true"
        events = f"read_parquet('{home.events}/*/*.parquet')"
        row = db.execute(
            f"""WITH requests AS (
                SELECT request_id, min(request_time) AS t FROM {events}
                GROUP BY request_id HAVING {eligible}),
            closed AS (
                SELECT t FROM requests WHERE t + INTERVAL ({window}) HOUR
                    <= (SELECT max(event_time) FROM {events}))
            SELECT count(*), epoch_us(quantile_disc(t, {SHARES[0]})),
                epoch_us(quantile_disc(t, {SHARES[0] + SHARES[1]})), epoch_us(max(t)) FROM closed"""
        ).fetchone()
    assert row is not None
    count, validation, test, last = row
    if not count or not validation < test <= last:
        raise DataError(
            f"{count or 0} requests have a closed label window ({window} h): too few, or too close "
            "in time, to split 70/10/20. Give a longer log or a shorter `label_window_hours`."
        )
    return Splits(int(validation), int(test), int(last) + 1)


def read_requests(files: list[Path], manifest: dict[str, Any]) -> pa.Table:
    """Requests of some event files (all rows of a request lie in one file's day).

    Returns:
        One row a request, by time: ``request_id``, ``request_time`` timestamp[us, UTC],
        ``user_id``, ``query``; lists over the candidates it showed or engaged, by position then id:
        ``items`` int64, ``labels`` int64 (bit h = positive for head h), ``weights`` float32,
        ``shown`` bool and ``positions`` int64 (null where the log has none). Engagements after the
        label window are no labels.
    """
    heads = [(h, manifest["heads"][h]) for h in manifest["head_order"]]
    order = manifest["weight_order"]
    actions = pa.table(
        {
            "action": manifest["actions"],
            "mask": [
                sum(1 << h for h, (_, of) in enumerate(heads) if a in of)
                for a in manifest["actions"]
            ],
            "weight": [float(manifest["weights"].get(a, 1.0)) for a in manifest["actions"]],
            "rank": [order.index(a) if a in order else 1_000 for a in manifest["actions"]],
        }
    )
    eligible = "HAVING bool_or(shown)" if manifest["has_impressions"] else ""
    with connection() as db:
        db.register("actions", actions)
        return db.sql(
            f"""WITH candidate AS (
                SELECT request_id, item_id, min(request_time) AS request_time,
                    min(user_id) AS user_id, min(query) AS query, min(position) AS position,
                    bool_or(action = 'impression') AS shown,
                    coalesce(bit_or(mask) FILTER (timely), 0) AS mask,
                    coalesce(arg_min(weight, rank) FILTER (timely), 1.0) AS weight
                FROM (SELECT *, event_time <= request_time
                          + INTERVAL ({manifest["label_window_hours"]}) HOUR AS timely
                      FROM read_parquet(?)) JOIN actions USING (action)
                GROUP BY request_id, item_id)
            SELECT request_id, min(request_time) AS request_time, min(user_id) AS user_id,
                min(query) AS query,
                list(item_id ORDER BY position, item_id) AS items,
                list(mask ORDER BY position, item_id) AS labels,
                list(weight::FLOAT ORDER BY position, item_id) AS weights,
                list(shown ORDER BY position, item_id) AS shown,
                list(position::BIGINT ORDER BY position, item_id) AS positions
            FROM candidate GROUP BY request_id {eligible} ORDER BY request_time, request_id""",
            params=[[str(f) for f in files]],
        ).to_arrow_table()
