"""Requests with their candidates and labels, from canonical events; and the split by time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interactrank.features.text import engagement_keys, query_code, segment_bucket
from prerank.core.errors import DataError
from prerank.core.home import Home
from prerank.core.sql import connection

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


@dataclass(frozen=True)
class Searches:
    """The distinct searches (a query in a context) of n rows.

    ``code`` int64 [n] points each row to its entry of ``queries`` and ``contexts``; a context is a
    value for each segment column in the schema's order, "" where it is missing.
    """

    queries: list[str]
    contexts: list[dict[str, str]]
    code: NDArray[np.int64]

    def keys(self) -> list[list[str]]:
        """Engagement keys of each search."""
        return [engagement_keys(q, c) for q, c in zip(self.queries, self.contexts, strict=True)]

    def query_codes(self) -> NDArray[np.int64]:
        """Codes of the n rows' queries, int64 [n]."""
        return np.array([query_code(q) for q in self.queries], np.int64)[self.code]

    def segments(self) -> NDArray[np.int64]:
        """Buckets of the n rows' segments, int64 [n, S]."""
        found = [[segment_bucket(v) for v in c.values()] for c in self.contexts]
        width = len(found[0]) if found else 0
        return np.array(found, np.int64).reshape(len(found), width)[self.code]


def distinct_searches(
    queries: pa.ChunkedArray, context: Mapping[str, pa.Array | pa.ChunkedArray]
) -> Searches:
    """Group rows by query [n] and segment columns (name -> str [n], null counts as missing)."""
    code = np.zeros(len(queries), np.int64)
    columns = []
    for column in (queries, *context.values()):
        whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        encoded = whole.fill_null("").dictionary_encode()
        columns.append(encoded)
        # Compact after every column, so that the product of the sizes cannot overflow.
        code = code * max(len(encoded.dictionary), 1) + encoded.indices.to_numpy()
        _, first, code = np.unique(code, return_index=True, return_inverse=True)
    texts = [c.take(pa.array(first)).to_pylist() for c in columns]
    contexts = [dict(zip(context, values, strict=True)) for values in zip(*texts[1:], strict=True)]
    return Searches(texts[0], contexts or [{} for _ in texts[0]], code)


def context_columns(requests: pa.Table) -> dict[str, pa.Array]:
    """Segment columns of the requests, from their ``context`` where they have one."""
    if "context" not in requests.column_names:
        return {}
    context = requests["context"].combine_chunks()
    return {f.name: context.field(i) for i, f in enumerate(context.type)}


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
        label window are no labels. A log with segments adds ``context``, a struct of them as str:
        what the request's earliest row says. A log with a retriever adds a list float32 of each of
        its columns, NaN where it said nothing.
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
    columns, of_item, of_request = _context_sql(manifest.get("segments", ()))
    for name in manifest.get("retriever", ()):
        # What was engaged without being shown would else stand out by lacking a value.
        of_item += f""", coalesce(min(retriever_{name}) FILTER (action = 'impression'),
                        min(retriever_{name}), 'NaN'::FLOAT) AS retriever_{name}"""
        of_request += (
            f", list(retriever_{name}::FLOAT ORDER BY position, item_id) AS retriever_{name}"
        )
    with connection() as db:
        db.register("actions", actions)
        return db.sql(
            f"""WITH candidate AS (
                SELECT request_id, item_id, min(request_time) AS request_time,
                    min(user_id) AS user_id, min(query) AS query, min(position) AS position,
                    bool_or(action = 'impression') AS shown,
                    coalesce(bit_or(mask) FILTER (timely), 0) AS mask,
                    coalesce(arg_min(weight, rank) FILTER (timely), 1.0) AS weight {of_item}
                FROM (SELECT {columns}, event_time <= request_time
                          + INTERVAL ({manifest["label_window_hours"]}) HOUR AS timely
                      FROM read_parquet(?)) JOIN actions USING (action)
                GROUP BY request_id, item_id)
            SELECT request_id, min(request_time) AS request_time, min(user_id) AS user_id,
                min(query) AS query,
                list(item_id ORDER BY position, item_id) AS items,
                list(mask ORDER BY position, item_id) AS labels,
                list(weight::FLOAT ORDER BY position, item_id) AS weights,
                list(shown ORDER BY position, item_id) AS shown,
                list(position::BIGINT ORDER BY position, item_id) AS positions {of_request}
            FROM candidate GROUP BY request_id {eligible} ORDER BY request_time, request_id""",
            params=[[str(f) for f in files]],
        ).to_arrow_table()


def _context_sql(segments: Sequence[str]) -> tuple[str, str, str]:
    """SQL for what to read of the events, and what to add for an item and for a request."""
    if not segments:
        return "*", "", ""
    names = ['"' + s.replace('"', '""') + '"' for s in segments]
    packed = ", ".join(f"{n} := coalesce({n}, '')" for n in names)
    # Left out by name, because a team's column may be called like one of ours.
    return (
        f"* EXCLUDE ({', '.join(names)}), struct_pack({packed}) AS context",
        ", arg_min(context, (event_time, event_id)) AS context,"
        " min((event_time, event_id)) AS first_row",
        ", arg_min(context, first_row) AS context",
    )
