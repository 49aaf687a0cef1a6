"""Requests with their candidates and labels, from canonical events; and the split by time."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from interactrank.features.schema import CANDIDATE_PREFIX
from prerank.core.home import Home
from prerank.core.manifest import FULL_RANKER, LogManifest
from prerank.core.sql import connection, quoted
from prerank.core.times import DAY_US, micros

REQUESTS_PER_TASK = 6_000


def read_requests(files: list[Path], manifest: LogManifest) -> pa.Table:
    """Requests of some event files (all rows of a request lie in one file's day).

    Returns:
        One row per request, by time: ``request_id``, ``request_time`` timestamp[us, UTC],
        ``user_id``, ``query``; lists over the candidates it showed or engaged, by position then id:
        ``items`` int64, ``labels`` int64 (bit h = positive for head h), ``weights`` float32,
        ``shown`` bool and ``positions`` int64 (null where the log has none). Engagements after the
        label window are no labels. A log with segments adds ``context``, a struct of them as str:
        what the request's earliest row says. A log with a retriever, or with candidate features,
        adds a list float32 of each of their columns, NaN where it says nothing; one with a full
        ranker's scores adds ``l2_score`` likewise.
    """
    heads = [(h, manifest.heads[h]) for h in manifest.head_order]
    order = manifest.weight_order
    actions = pa.table(
        {
            "action": manifest.actions,
            "mask": [
                sum(1 << h for h, (_, of) in enumerate(heads) if a in of) for a in manifest.actions
            ],
            "weight": [float(manifest.weights.get(a, 1.0)) for a in manifest.actions],
            "rank": [order.index(a) if a in order else 1_000 for a in manifest.actions],
        }
    )
    eligible = "HAVING bool_or(shown)" if manifest.has_impressions else ""
    columns, of_item, of_request = _context_sql(manifest.segments)
    for name in manifest.retriever:
        # What was engaged without being shown would else stand out by lacking a value.
        of_item += f""", coalesce(min(retriever_{name}) FILTER (action = 'impression'),
                        min(retriever_{name}), 'NaN'::FLOAT) AS retriever_{name}"""
        of_request += (
            f", list(retriever_{name}::FLOAT ORDER BY position, item_id) AS retriever_{name}"
        )
    for column in (quoted(CANDIDATE_PREFIX + name) for name in manifest.candidate_features):
        # As the retriever's; but of what was shown, only what was known when it was. A price that
        # stands with the purchase alone would tell the label.
        of_item += f""", coalesce(CASE WHEN bool_or(action = 'impression')
                        THEN min({column}) FILTER (action = 'impression')
                        ELSE min({column}) END, 'NaN'::FLOAT) AS {column}"""
        of_request += f", list({column}::FLOAT ORDER BY position, item_id) AS {column}"
    if manifest.full_ranker:
        of_item += f", coalesce(max({FULL_RANKER}), 'NaN'::FLOAT) AS {FULL_RANKER}"
        of_request += f", list({FULL_RANKER}::FLOAT ORDER BY position, item_id) AS {FULL_RANKER}"
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
                          + to_microseconds({manifest.label_window_us}) AS timely
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
    names = [quoted(segment) for segment in segments]
    packed = ", ".join(f"{n} := coalesce({n}, '')" for n in names)
    # Left out by name, because a team's column may be called like one of ours.
    return (
        f"* EXCLUDE ({', '.join(names)}), struct_pack({packed}) AS context",
        ", arg_min(context, (event_time, event_id)) AS context,"
        " min((event_time, event_id)) AS first_row",
        ", arg_min(context, first_row) AS context",
    )


def event_days(
    home: Home, from_us: int = 0, to_us: int = 1 << 62, per_task: int | None = None
) -> list[list[str]]:
    """Event files in groups of whole days of about ``per_task`` requests, by time.

    Only days that may hold requests of [from_us, to_us) are listed. ``per_task`` is
    REQUESTS_PER_TASK where it is left out. No event is read: ingest has counted the requests.

    Raises:
        StateError: nothing was ingested, or by another version.
    """
    home.fetch(home.events)
    manifest = LogManifest.load(home)
    limit = REQUESTS_PER_TASK if per_task is None else per_task
    groups: list[list[str]] = []
    rows = 0
    for day, count in sorted(manifest.requests_per_day.items()):
        start = int(np.datetime64(day, "us").astype(np.int64))
        if start >= to_us or start + DAY_US <= from_us:
            continue
        files = sorted(str(f) for f in (home.events / f"day={day}").glob("*.parquet"))
        if not groups or rows + count > limit:
            groups.append([])
            rows = 0
        groups[-1] += files
        rows += count
    return groups


def requests_between(files: list[str], manifest: LogManifest, from_us: int, to_us: int) -> pa.Table:
    """Requests of event ``files`` with from_us <= request_time < to_us."""
    requests = read_requests([Path(f) for f in files], manifest)
    time = micros(requests["request_time"])
    return requests.filter(pa.array((time >= from_us) & (time < to_us)))


def trusted(requests: pa.Table, trust: Mapping[str, float]) -> pa.Table:
    """``requests`` without some of the users whose weight is below 1, so that each counts as much.

    A request stays with a probability of its user's weight: that is in the mean the same as to
    weigh it in each of the losses. Chosen by the request's id, so that a training set that is built
    again is the same.
    """
    if not trust:
        return requests
    weights = [trust.get(user, 1.0) for user in requests["user_id"].to_pylist()]
    ids = requests["request_id"].to_pylist()
    chance = [zlib.crc32(name.encode()) / 2**32 for name in ids]
    return requests.filter(pa.array(np.array(chance) < np.array(weights)))
